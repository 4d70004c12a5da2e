"""The on-disk contract: keys, member names, JSON members, errors.

Owns what a byte sequence inside a shard means, except audio (audio/members.py) and
labels (label_codec.py). Does not open files (reader.py, writer.py).
"""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

from shards.errors import ShardError
from shards.system.files import sha256_of

FORMAT_VERSION = 2
"""Version of index.json, clips.npz and of the members."""
LABEL_FORMS_VERSION = 3
"""Version of label datasets in another form than dense labels of one view, which
readers of version 2 do not know. Readers refuse any other than these two."""
KEY_MAX_CHARS = 90
"""USTAR names end at 100 characters; the rest is for the suffix."""
KEY_CHARS = string.ascii_letters + string.digits + "_=-"
"""What a key may hold."""
MAX_CLIP_SECONDS = 600.0
"""A longer clip is refused, so that a small file cannot claim to decode to hours."""
CODECS = ("wav", "flac", "opus")
"""What clips can be packed as, and the suffix of their members; audio.py knows how."""
SOURCE_CODEC = "source"
"""Codec of a dataset whose members are audio files as found, of any form."""
MAX_DESCRIPTION_BYTES = 1 << 20
"""A longer JSON member is refused."""
_MAX_JSON_DEPTH = 16
_HASH_CHARS = 20
"""Of the hash in the key of a long id: 80 bits."""
_KEY = re.compile(f"[{KEY_CHARS}]{{1,{KEY_MAX_CHARS}}}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_RESERVED = re.compile(r"__[^/]*__$")


def make_key(clip_id: str, start_seconds: float) -> str:
    """The key of the clip that starts ``start_seconds`` into recording ``clip_id``.

    WebDataset splits member names at the first dot, so a key holds none: the start
    is in whole milliseconds and any character outside ``[A-Za-z0-9_-]`` becomes
    ``=XX`` (hex of its UTF-8 bytes), which keeps different ids different. Of an id
    too long for a tar member name, the key has the beginning, ``==`` (which no escape
    makes) and a hash; the JSON member has it whole.

    Raises ShardError if the id is not valid Unicode.
    """
    where = f"id {clip_id!r}"
    try:
        safe = _UNSAFE.sub(_escape, clip_id)
    except UnicodeEncodeError:
        raise ShardError(f"{where}: not valid Unicode; rename it in UTF-8") from None
    start = f"_{round(start_seconds * 1000)}"
    room = KEY_MAX_CHARS - len(start)
    if len(safe) > room:
        digest = sha256_of(clip_id.encode())[:_HASH_CHARS]
        safe = f"{safe[: room - 2 - _HASH_CHARS]}=={digest}"
    return check_key(safe + start, where=where)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in match.group().encode())


def check_key(key: str, *, where: str) -> str:
    """``key`` itself when it obeys the key rules, else ShardError naming ``where``."""
    if not _KEY.fullmatch(key) or _RESERVED.match(key):
        raise ShardError(
            f"{where}: key {key!r} is not allowed; expected 1 to {KEY_MAX_CHARS} "
            "characters of A-Z a-z 0-9 _ - = and not of the form __name__"
        )
    return key


@dataclass(frozen=True)
class ClipInfo:
    """What the JSON member of a clip says."""

    clip_id: str
    start_seconds: float
    num_samples: int
    sample_rate: int
    labels: tuple[str, ...]
    """Weak labels as mids, in class order."""

    def to_bytes(self) -> bytes:
        """One line of JSON, keys in a fixed order."""
        fields = {
            "id": self.clip_id,
            "start_seconds": self.start_seconds,
            "num_samples": self.num_samples,
            "sample_rate": self.sample_rate,
            "labels": list(self.labels),
        }
        return json.dumps(fields, ensure_ascii=False).encode()

    @staticmethod
    def from_bytes(data: bytes, *, where: str) -> ClipInfo:
        """Parse a JSON member; ShardError names ``where`` if it is malformed."""
        fields = parse_json(data, where=where)
        try:
            info = ClipInfo(
                clip_id=fields["id"],
                start_seconds=float(fields["start_seconds"]),
                num_samples=fields["num_samples"],
                sample_rate=fields["sample_rate"],
                labels=tuple(fields["labels"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ShardError(f"{where}: not a clip description: {error!r}") from None
        texts = (info.clip_id, *info.labels)
        numbers = (info.num_samples, info.sample_rate)
        if not (
            all(type(text) is str for text in texts)
            and all(type(number) is int for number in numbers)
        ):
            raise ShardError(f"{where}: not a clip description: {info}")
        return info


def parse_json(data: bytes, *, where: str) -> Any:
    """The value of UTF-8 JSON from anyone, made of plain Python values only.

    Raises ShardError on anything else, also on what Python's parser lets through: a
    duplicate field, NaN and infinities, half characters, and nesting deeper
    than 16.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique_fields,
            parse_constant=_refuse_constant,
        )
        _check_value(value, _MAX_JSON_DEPTH)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}: not JSON as expected: {error!r}") from None
    return value


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate field {twice!r}")
    return fields


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _check_value(value: Any, depth: int) -> None:
    """ValueError on nesting past ``depth``, infinite numbers and half characters."""
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode()  # a lone surrogate cannot be; it would fail when printed
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number too large")
    elif isinstance(value, dict):
        for name, inner in value.items():
            name.encode()
            _check_value(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, depth - 1)
