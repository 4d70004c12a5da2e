"""index.json: its fields, their types, and the hash that binds them together.

Owns what index.json may say. Reads and writes no file (index.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from shards.errors import ShardError
from shards.format.label_codec import DENSE, TAILS, LabelForm
from shards.format.schema import (
    CODECS,
    FORMAT_VERSION,
    LABEL_FORMS_VERSION,
    SOURCE_CODEC,
    parse_json,
)
from shards.system.files import sha256_of

MAX_INDEX_BYTES = 256 << 20
"""A longer index.json is refused; full AudioSet's has 4200 shards in 1 MB."""

MAX_GAIN_DB = 24.0
"""The most that views of a chunk may differ from it in level."""

ROLL_FILLS = ("wrap", "zero")
"""What comes in at one end of a rolled chunk: what left at the other, or nothing."""

_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+,@ ()-]{0,199}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNHASHED = ("fingerprint", "provenance", "location")


@dataclass(frozen=True)
class ShardRecord:
    """One tar of a dataset."""

    name: str
    """File name, the same in an audio folder and in its label folders."""
    num_clips: int
    num_bytes: int
    sha256: str


def make_meta(
    *,
    kind: str,
    num_clips: int,
    num_classes: int,
    classes_sha256: str,
    clips_sha256: str,
    shards: tuple[ShardRecord, ...],
    properties: dict[str, Any],
    provenance: dict[str, Any],
    location: str | None,
) -> dict[str, Any]:
    """The content of index.json, with its fingerprint."""
    meta = {
        "format_version": format_version(properties),
        "kind": kind,
        "num_clips": num_clips,
        **properties,
        "num_classes": num_classes,
        "classes_sha256": classes_sha256,
        "clips_sha256": clips_sha256,
        "shards": [asdict(shard) for shard in shards],
    }
    meta["fingerprint"] = _fingerprint(meta)
    meta["provenance"] = provenance
    if location is not None:
        meta["location"] = location
    return meta


def format_version(properties: dict[str, Any]) -> int:
    """The version of a dataset: the lowest whose readers know all that it holds."""
    plain = LabelForm.of(properties) == DENSE
    return FORMAT_VERSION if plain else LABEL_FORMS_VERSION


def _fingerprint(meta: dict[str, Any]) -> str:
    hashed = {name: meta[name] for name in meta if name not in _UNHASHED}
    return sha256_of(json.dumps(hashed, sort_keys=True).encode())


def parse_meta(data: bytes, *, where: str) -> dict[str, Any]:
    """The fields of an index.json from anyone, each of its type and in its range.

    Raises ShardError naming the field that is wrong, or another format version.
    """
    meta = parse_json(data, where=f"{where}: not a dataset index")
    if not isinstance(meta, dict) or not _is_count(meta.get("format_version")):
        raise ShardError(f"{where}: not a dataset index: has no format_version")
    expected = format_version(meta)
    if meta["format_version"] != expected:
        raise ShardError(
            f"{where}: format version {meta['format_version']}, expected "
            f"{expected}; use the version of this program that wrote it"
        )
    for name, is_right in _FIELDS.items():
        if not is_right(meta.get(name)):
            raise ShardError(
                f"{where}: field {name} is missing or invalid: "
                f"{_shown(meta.get(name))}; restore the file"
            )
    if _fingerprint(meta) != meta["fingerprint"]:
        raise ShardError(f"{where}: fields do not match its fingerprint; restore it")
    _check_properties(meta, where)
    _check_shards(meta, where)
    return meta


def properties_of(meta: dict[str, Any]) -> dict[str, Any]:
    """The fields that belong to this kind of dataset, such as codec and rate."""
    return {name: value for name, value in meta.items() if name not in _FIELDS}


def _check_properties(meta: dict[str, Any], where: str) -> None:
    needed = ("codec", "sample_rate") if meta["kind"] == "audio" else ()
    for name, is_right in _PROPERTIES.items():
        if (name in meta or name in needed) and not is_right(meta.get(name)):
            raise ShardError(
                f"{where}: field {name} is missing or invalid: "
                f"{_shown(meta.get(name))}; restore the file"
            )
    if meta["kind"] == "labels":
        try:
            LabelForm.of(meta).check(meta["num_classes"])
        except ValueError as error:
            raise ShardError(f"{where}: {error}; restore the file") from None
        chunk = meta.get("chunk_samples")
        if chunk is not None and meta.get("hop_samples", chunk) > chunk:
            raise ShardError(
                f"{where}: hop_samples {meta['hop_samples']}, expected at most the "
                f"chunk_samples of {chunk}, or audio between chunks would have no "
                "label; restore the file"
            )


def _check_shards(meta: dict[str, Any], where: str) -> None:
    names = set()
    for record in meta["shards"]:
        if not _is_shard(record) or record["name"] in names:
            raise ShardError(
                f"{where}: a shard is malformed or a duplicate: "
                f"{_shown(record)}; expected a plain file name ending in .tar, counts "
                "and a sha256; restore the file"
            )
        names.add(record["name"])
    total = sum(record["num_clips"] for record in meta["shards"])
    if total != meta["num_clips"]:
        raise ShardError(
            f"{where}: num_clips {meta['num_clips']}, but {total} in its shards; "
            "restore the file"
        )


def _shown(value: Any) -> str:
    """``value`` for a message, short and without characters that steer a terminal."""
    return json.dumps(value)[:200]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _is_positive(value: Any) -> bool:
    return _is_count(value) and value > 0


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and bool(pattern.fullmatch(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) < 4096


def _is_shard(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.keys() == {"name", "num_clips", "num_bytes", "sha256"}
        and _matches(_SHARD_NAME)(record["name"])
        and _is_count(record["num_clips"])
        and type(record["num_bytes"]) is int
        and 0 <= record["num_bytes"] < 1 << 62
        and _matches(_SHA256)(record["sha256"])
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format_version": _is_count,
    "kind": lambda value: value in ("audio", "labels"),
    "num_clips": _is_count,
    "num_classes": _is_positive,
    "classes_sha256": _matches(_SHA256),
    "clips_sha256": _matches(_SHA256),
    "shards": lambda value: isinstance(value, list) and len(value) > 0,
    "fingerprint": _matches(_SHA256),
    "provenance": lambda value: isinstance(value, dict),
    "location": lambda value: value is None or _is_text(value),
}
"""Fields of every index; the rest are properties of its kind."""

_PROPERTIES: dict[str, Callable[[Any], bool]] = {
    "codec": lambda value: value in (*CODECS, SOURCE_CODEC),
    "sample_rate": _is_positive,
    "chunk_samples": _is_positive,
    "hop_samples": _is_positive,
    "views": _is_positive,
    "top_k": _is_positive,
    "tail": lambda value: value in TAILS,
    "augment_seed": _is_count,
    "gain_db": lambda value: type(value) in (int, float) and 0 < value <= MAX_GAIN_DB,
    "roll_samples": _is_positive,
    "roll_fill": lambda value: value in ROLL_FILLS,
}
