"""Segments CSVs in AudioSet's form, and the audio files they speak of.

Owns what a row of such a CSV means and under which names its file may lie.
"""

from __future__ import annotations

import csv
import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.audio.decode import SUFFIXES
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.schema import make_key


@dataclass(frozen=True)
class Segment:
    """One row of a segments CSV."""

    clip_id: str
    start_seconds: float
    end_seconds: float
    labels: tuple[int, ...]
    """Class indices, ascending."""

    @functools.cached_property
    def key(self) -> str:
        """The key of the clip in its shard."""
        return make_key(self.clip_id, self.start_seconds)


def read_segments(path: str | Path, classes: Classes) -> list[Segment]:
    """The segments of a CSV in AudioSet's form (id, start, end, "mid,mid").

    Raises ShardError naming file and line: nothing in it, a malformed row, a mid that
    is not in ``classes``, an end before its start, a segment that stands twice.
    """
    segments: list[Segment] = []
    line_of: dict[str, int] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, skipinitialspace=True)
            for fields in reader:
                if not fields or fields[0].lstrip().startswith("#"):
                    continue
                where = f"{path}: line {reader.line_num}"
                segment = _parse_segment(fields, classes, where)
                if segment.key in line_of:
                    raise ShardError(
                        f"{where}: {segment.clip_id!r} from {segment.start_seconds} s "
                        f"stands already at line {line_of[segment.key]}; keep one"
                    )
                line_of[segment.key] = reader.line_num
                segments.append(segment)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path}: cannot read segments: {error}") from None
    if not segments:
        raise ShardError(
            f'{path}: no segments; expected rows like: id, 30.000, 40.000, "/m/09x0r"'
        )
    return segments


def _parse_segment(fields: list[str], classes: Classes, where: str) -> Segment:
    try:
        clip_id, start, end, mids = fields
        start_seconds, end_seconds = float(start), float(end)
    except ValueError:
        raise ShardError(
            f"{where}: found {','.join(fields)!r}, expected id, start_seconds, "
            'end_seconds, "mid,mid"'
        ) from None
    if not 0 <= start_seconds < end_seconds < 1e7:
        raise ShardError(
            f"{where}: from {start_seconds} s to {end_seconds} s; expected "
            "0 <= start < end"
        )
    labels = classes.parse_labels(mids, where=where)
    return Segment(clip_id, start_seconds, end_seconds, labels)


_CUT_NAME = re.compile(r"(?:Y(?=.{11}_))?(.+)_(\d+\.\d+)_(\d+\.\d+)")


def parse_stem(stem: str) -> tuple[str, float]:
    """Clip id and start in seconds from a file's name without folder and suffix.

    ``<id>_<start>_<end>`` with decimal seconds, and the same after a ``Y`` if the id
    has YouTube's 11 characters, is a segment; any other name is an id that starts
    at 0. So a clip of such a name has the same key from whatever it was packed.
    """
    if match := _CUT_NAME.fullmatch(stem):
        return match[1], float(match[2])
    return stem, 0.0


def find_audio(folder: str | Path, segments: Sequence[Segment]) -> dict[str, Path]:
    """The file of each segment that has one, by key.

    Looks in ``folder`` and below for ``<id>``, ``<id>_<start>_<end>`` (seconds or
    milliseconds) and the same after a ``Y``, with any audio suffix; the most specific
    name wins. Raises ShardError if ``folder`` is none, or two files share a name.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in walk_audio(folder):
        by_stem.setdefault(path.stem, []).append(path)
    found = {}
    ids = {segment.clip_id for segment in segments}
    for segment in segments:
        matches = next((by_stem[s] for s in _stems(segment, ids) if s in by_stem), [])
        if not matches:
            continue
        if len(matches) > 1:
            one, two = sorted(matches)[:2]
            raise ShardError(
                f"{one} and {two} both match {segment.clip_id}; keep one of them"
            )
        found[segment.key] = matches[0]
    return found


def walk_audio(folder: str | Path) -> Iterator[Path]:
    """The audio files in ``folder`` and below, by their suffix, in no order.

    Raises ShardError if ``folder`` is none, or one below cannot be listed.
    """
    if not Path(folder).is_dir():
        raise ShardError(f"{folder}: no such folder; give the one with the audio files")
    for place, names in _walk(folder):
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(place, name)


def _walk(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files, through links, each folder once.

    Raises ShardError on a folder that cannot be listed: its files are not missing.
    """

    def fail(error: OSError) -> None:
        raise ShardError(f"{error.filename}: {error.strerror}; make it readable")

    seen = set()
    for place, below, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield place, names


def _stems(segment: Segment, ids: set[str]) -> Iterator[str]:
    """Names the file of ``segment`` may have; ``Y<id>`` only if that is no other id."""
    start, end = segment.start_seconds, segment.end_seconds
    names = [segment.clip_id]
    if f"Y{segment.clip_id}" not in ids:
        names.append(f"Y{segment.clip_id}")
    for name in names:
        yield f"{name}_{start:.3f}_{end:.3f}"
        yield f"{name}_{start:.1f}_{end:.1f}"
        yield f"{name}_{start:g}_{end:g}"
        yield f"{name}_{round(start * 1000)}_{round(end * 1000)}"
    yield from names
