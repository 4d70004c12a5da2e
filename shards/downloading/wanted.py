"""Which segments are wanted: rows of AudioSet's CSVs, or of its strong TSVs.

Owns the names of the files that they become, and the CSVs of what is here and what is
not. Labels are carried along as they are written; packing reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ShardError
from shards.format.schema import MAX_CLIP_SECONDS, make_key
from shards.packing.segments import Segment, join_rows, read_segments
from shards.system.files import write_atomic

STRONG_SECONDS = 10.0
"""Length of AudioSet's segments, which its strong TSVs do not give."""
_STRONG_HEADER = "segment_id\t"
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
"""An id becomes part of a URL and of a file's name."""


@dataclass(frozen=True)
class Cut:
    """One segment of a video."""

    clip_id: str
    start_seconds: float
    end_seconds: float
    labels: str
    """As the list has them, of several rows joined by commas."""

    @property
    def key(self) -> str:
        """The key of the clip once it is packed."""
        return make_key(self.clip_id, self.start_seconds)

    @property
    def file_name(self) -> str:
        """The file's name, by which packing finds it and knows that it is cut."""
        return f"{self.clip_id}_{self.start_seconds:.3f}_{self.end_seconds:.3f}.flac"

    def row(self) -> str:
        """Its line in a CSV of AudioSet's form."""
        labels = self.labels.replace('"', '""')
        times = f"{self.start_seconds:.3f}, {self.end_seconds:.3f}"
        return f'{self.clip_id}, {times}, "{labels}"\n'


@dataclass(frozen=True)
class Video:
    """A recording at the site, and what is wanted of it."""

    clip_id: str
    cuts: tuple[Cut, ...]


class _AsWritten:
    """Numbers the labels of rows, each as its text, so that no class list is needed."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def parse(self, value: object, *, where: str) -> tuple[int, ...]:
        return (self._numbers.setdefault(str(value), len(self._numbers)),)

    def texts(self) -> list[str]:
        return list(self._numbers)


def read_wanted(path: str | Path) -> list[Cut]:
    """The segments of a list, in its order.

    A CSV as packing reads it, or a TSV of AudioSet-strong (the segments that it names,
    with the labels of their events). Raises ShardError naming file and line.
    """
    reader = _AsWritten()
    if _is_strong(path):
        segments = join_rows(_read_strong(path, reader), where=str(path))
    else:
        segments = read_segments(path, reader)
    texts = reader.texts()
    return [_cut(segment, texts, path) for segment in segments]


def _cut(segment: Segment, texts: Sequence[str], path: str | Path) -> Cut:
    where = f"{path}: line {segment.line}"
    if not _ID.fullmatch(segment.clip_id):
        raise ShardError(
            f"{where}: id {segment.clip_id!r:.100}; expected a video's id, of letters, "
            "digits, - and _"
        )
    seconds = segment.end_seconds - segment.start_seconds
    if seconds > MAX_CLIP_SECONDS:
        raise ShardError(
            f"{where}: {seconds:g} s; a clip may have {MAX_CLIP_SECONDS:g} s"
        )
    labels = ",".join(texts[number] for number in segment.labels)
    return Cut(segment.clip_id, segment.start_seconds, segment.end_seconds, labels)


def _is_strong(path: str | Path) -> bool:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as stream:
            return stream.readline(200).startswith(_STRONG_HEADER)
    except OSError:
        return False  # read_segments says it


def _read_strong(path: str | Path, reader: _AsWritten) -> Iterable[Segment]:
    """A segment for each event whose label its segment has not yet."""
    seen = set()
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        next(stream)
        for number, line in enumerate(stream, 2):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            fields = line.rstrip("\r\n").split("\t")
            name, _, start = fields[0].rpartition("_")
            if len(fields) != 4 or not name or not re.fullmatch(r"\d{1,9}", start):
                raise ShardError(
                    f"{where}: found {line.strip()!r:.100}, expected segment_id, "
                    "start, end and label between tabs, and an id as b0RFKhbpFJA_30000"
                )
            if (fields[0], fields[3]) in seen:
                continue
            seen.add((fields[0], fields[3]))
            labels = reader.parse(fields[3], where=where)
            seconds = int(start) / 1000
            yield Segment(name, seconds, seconds + STRONG_SECONDS, labels, number)


def videos_of(cuts: Iterable[Cut]) -> list[Video]:
    """The videos that ``cuts`` lie in, in the order of their first."""
    found: dict[str, list[Cut]] = {}
    for cut in cuts:
        found.setdefault(cut.clip_id, []).append(cut)
    return [Video(clip_id, tuple(group)) for clip_id, group in found.items()]


def write_rows(path: Path, cuts: Iterable[Cut]) -> None:
    """Write a CSV in AudioSet's form, for packing."""
    header = "# YTID, start_seconds, end_seconds, positive_labels\n"
    write_atomic(path, header + "".join(cut.row() for cut in cuts))
