"""How much of a published list of clips is there.

Owns the forms of such a list. Missing clips move published AudioSet results by up to
5 %, so two numbers compare only where this is stated.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psl.data.validation import recording
from shards.audio.decode import SUFFIXES
from shards.errors import ShardError
from shards.format.lists import open_list
from shards.format.schema import make_key
from shards.packing.names import keys_of_file

_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_HEADERS = ("id", "key", "ytid", "segment_id", "sha256", "clip", "clip_id", "filename")
"""A first line of one of these names no clip."""


def fingerprint(keys: Iterable[bytes]) -> str:
    """Hex SHA-256 of keys, sorted, a line each: equal for the same clips."""
    return hashlib.sha256(b"\n".join(sorted(keys))).hexdigest()


@dataclass(frozen=True)
class Coverage:
    """Clips of a list, and of an evaluation."""

    listed: int
    present: int
    """Of the list's clips, those that were evaluated."""
    unlisted: int
    """Evaluated clips that the list does not have."""
    sha256: str
    """Fingerprint of the listed clips that were evaluated."""
    missing: str | None
    """The first of the list's clips that was not."""

    def summary(self, path: str) -> dict[str, Any]:
        """For metrics.json."""
        return {
            "official": path,
            "listed": self.listed,
            "present": self.present,
            "share": self.present / self.listed,
            "unlisted": self.unlisted,
            "sha256_of_present": self.sha256,
        }


def cover(path: str | Path, keys: list[bytes]) -> Coverage:
    """How much of the list in ``path`` clips ``keys`` are.

    A line is AudioSet's (id, start, end, labels), an id or key, the name of an audio
    file, or the SHA-256 of an id or key. An id without a start stands for any clip of
    that recording. Raises ShardError naming the file: unreadable, empty, a duplicate,
    or of other clips only.
    """
    listed = _read_list(path)
    hashed = [name for name in listed if _SHA256.fullmatch(name)]
    meant = {alias: name for name in listed for alias in _aliases_of(name)}
    meant |= {name: name for name in listed} | {name.lower(): name for name in hashed}
    found: set[str] = set()
    present = []
    for key in keys:
        own = {key.decode(), recording(key).decode()}
        if hashed:
            own |= {hashlib.sha256(name.encode()).hexdigest() for name in own}
        if here := {meant[name] for name in own & meant.keys()}:
            found |= here
            present.append(key)
    if not present:
        what = f"clips such as {next(iter(listed))!r:.100}"
        if len(hashed) == len(listed):
            what = "hashes"
        raise ShardError(
            f"{path}: {len(listed)} {what}, none of which is among the {len(keys)} "
            f"evaluated, such as {keys[0].decode()!r}; give the list of these clips, "
            "one on each line, or its columns separated by commas"
        )
    return Coverage(
        listed=len(listed),
        present=len(found),
        unlisted=len(keys) - len(present),
        sha256=fingerprint(present),
        missing=next((name for name in listed if name not in found), None),
    )


def _aliases_of(name: str) -> set[str]:
    """Keys that the name of an audio file may have become; none for another name."""
    if Path(name).suffix.lower() not in SUFFIXES:
        return set()
    return set(keys_of_file(name))


def _read_list(path: str | Path) -> dict[str, int]:
    """The names in a list, and the line of each."""
    names: dict[str, int] = {}
    with open_list(path, "the official list") as stream:
        lines = csv.reader(stream, skipinitialspace=True)
        for fields in lines:
            name = _name_of(fields, is_first=not names)
            if name is None:
                continue
            if name in names:
                raise ShardError(
                    f"{path}: line {lines.line_num}: {name!r:.100} is in line "
                    f"{names[name]} as well; expected each clip once"
                )
            names[name] = lines.line_num
    if not names:
        raise ShardError(f"{path}: no clip; expected a list of ids, or a segments CSV")
    return names


def _name_of(fields: list[str], *, is_first: bool) -> str | None:
    """The key, id or hash in a line; None if it is a comment, a header or blank."""
    fields = [field.strip() for field in fields]
    if not fields or not fields[0] or re.match(r"#(\s|$)", fields[0]):
        return None
    if is_first and fields[0].lower() in _HEADERS:
        return None
    try:
        return make_key(fields[0], float(fields[1])) if len(fields) > 2 else fields[0]
    except (ValueError, OverflowError):
        return fields[0]
