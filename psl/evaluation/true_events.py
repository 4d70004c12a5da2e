"""True events of clips, from a strong CSV, and the chunks they lie in.

Owns the CSV's forms (AudioSet-strong's: segment_id, start_time_seconds,
end_time_seconds, label; DESED's: filename, onset, offset, event_label) and the rule by
which an event counts for a chunk. Measures nothing.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.classes import Classes
from shards.format.index import Index
from shards.packing.names import key_of, without_suffix

COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
DESED_COLUMNS = ("filename", "onset", "offset", "event_label")
"""Files have names with a suffix, classes are named, and a row without times and class
is a clip without events."""
MAX_NAMED = 10
"""Unknown mids that an error names; all are in ``Events.unknown``."""


class _Line(NamedTuple):
    number: int
    segment: str
    start_seconds: float
    end_seconds: float
    mid: str | None
    """None in a row that only says that a clip has no event."""


@dataclass(frozen=True)
class Events:
    """The events of one dataset's clips, in the order of clips."""

    row: np.ndarray
    """[E] int64, clip in the index, ascending."""
    start: np.ndarray
    """[E] int64, first sample in the clip."""
    stop: np.ndarray
    """[E] int64, sample past the last, after ``start`` and inside the clip."""
    label: np.ndarray
    """[E] int64, class index."""
    covered: np.ndarray
    """[R] bool: clips that the CSV names; of the others nothing is known."""
    unknown: dict[str, int]
    """Events left out because of their mid, by mid, most first."""
    num_outside: int
    """Events left out because nothing of them lies in their clip."""
    num_cut: int
    """Events that were cut at the end of their clip."""
    num_elsewhere: int
    """Events of segments that are not in the dataset, left out."""
    num_segments_elsewhere: int

    def of_rows(self, first: int, past: int) -> slice:
        """Where the events of clips ``first`` to ``past`` stand."""
        return slice(*np.searchsorted(self.row, [first, past]).tolist())

    def only(self, rows: np.ndarray) -> Events:
        """As if the CSV named no other clips than ``rows``."""
        covered = np.zeros_like(self.covered)
        covered[rows] = self.covered[rows]
        kept = covered[self.row]
        return replace(
            self,
            row=self.row[kept],
            start=self.start[kept],
            stop=self.stop[kept],
            label=self.label[kept],
            covered=covered,
        )

    def with_ancestors(self, implied: np.ndarray) -> Events:
        """With an event of each class that a class implies, by ``implied`` [C, C]."""
        event, label = np.nonzero(implied[self.label])
        return replace(
            self,
            row=self.row[event],
            start=self.start[event],
            stop=self.stop[event],
            label=label.astype(np.int64),
        )


def read_events(
    path: str | Path,
    audio: Index,
    *,
    max_left_out: float,
    option: str = "--max-left-out ",
) -> Events:
    """The events of the clips of ``audio``; ``segment_id`` is the key of a clip.

    Columns are separated by tabs or commas, times are seconds in the clip, labels mids;
    or the list is in DESED's form. Segments that are not in ``audio`` are counted.
    Raises ShardError naming file and line: unreadable, malformed, no event of these
    clips, or a share of their events beyond ``max_left_out`` with an unknown mid or
    with nothing inside the clip. ``option`` is how the user writes that limit.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = list(_parse(stream, path, audio.classes))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path}: cannot read events: {error}") from None
    segments = {line.segment for line in lines}
    rows = _find_rows(segments, audio)
    here = [line for line in lines if line.segment in rows and line.mid is not None]
    if not here:
        found = f"segments such as {min(segments)!r}" if segments else "no event"
        if rows:
            found = f"{len(rows)} clips of this dataset, all without events"
        example = f", such as {audio.key(0)!r}" if len(audio) else ""
        raise ShardError(
            f"{path}: {found}; expected events of the clips of {audio.where}{example}"
        )
    known = [line for line in here if line.mid in audio.classes.index_of]
    events = _place(known, rows, audio)
    inside = events["start"] < events["stop"]
    _check_left_out(path, audio, here, known, inside, max_left_out, option)
    mids = [line.mid for line in here if line.mid is not None]
    unknown = Counter(mid for mid in mids if mid not in audio.classes.index_of)
    order = np.argsort(events["row"][inside], kind="stable")
    return Events(
        **{
            name: events[name][inside][order]
            for name in ("row", "start", "stop", "label")
        },
        covered=np.isin(np.arange(len(audio)), list(rows.values())),
        unknown=dict(unknown.most_common()),
        num_outside=int((~inside).sum()),
        num_cut=int((events["late"] & inside).sum()),
        num_elsewhere=len(lines) - len(here),
        num_segments_elsewhere=len(segments) - len(rows),
    )


def _parse(stream: TextIO, path: str | Path, classes: Classes) -> Iterator[_Line]:
    """The lines below the header; ShardError names the first malformed one."""
    header = stream.readline()
    delimiter = "\t" if "\t" in header else ","
    names = [name.strip() for name in header.split(delimiter)]
    is_desed = all(name in names for name in DESED_COLUMNS)
    columns = DESED_COLUMNS if is_desed else COLUMNS
    if missing := [name for name in columns if name not in names]:
        raise ShardError(
            f"{path}: line 1: no column {', '.join(missing)} in "
            f"{header.strip()!r:.200}; expected a header with {', '.join(COLUMNS)}, or "
            f"{', '.join(DESED_COLUMNS)}, separated by tabs or commas"
        )
    places = [names.index(name) for name in columns]
    mids = dict(zip(classes.names, classes.mids, strict=True)) if is_desed else {}
    reader = csv.reader(stream, delimiter=delimiter)
    for fields in reader:
        number = reader.line_num + 1
        if not fields:
            continue
        try:
            if len(fields) != len(names):
                raise ValueError
            segment, start, end, label = (fields[place].strip() for place in places)
            if is_desed:
                segment = key_of(without_suffix(segment).rpartition("/")[2])
                label = mids.get(label, label)
            if is_desed and not (start or end or label):
                yield _Line(number, segment, 0.0, 0.0, None)
                continue
            times = float(start), float(end)
            if not 0.0 <= times[0] <= times[1] < math.inf:
                raise ValueError
        except ValueError:
            raise ShardError(
                f"{path}: line {number}: found {delimiter.join(fields)!r:.200}, "
                f"expected {len(names)} columns with 0 <= start <= end in seconds"
            ) from None
        yield _Line(number, segment, *times, label)


def _find_rows(segments: set[str], audio: Index) -> dict[str, int]:
    """The row of each segment that is in the dataset."""
    wanted = {segment.encode() for segment in segments}
    keys = enumerate(audio.table.key.tolist())
    return {key.decode(): row for row, key in keys if key in wanted}


def _place(
    lines: list[_Line], rows: dict[str, int], audio: Index
) -> dict[str, np.ndarray]:
    """Columns of Events [E], in the order of the file, and which were ``late``."""
    rate, index_of = audio.properties["sample_rate"], audio.classes.index_of
    row = np.array([rows[line.segment] for line in lines], np.int64)
    seconds = np.array([line[2:4] for line in lines], np.float64).reshape(-1, 2)
    start, end = np.minimum(np.rint(seconds * rate), 2.0**62).astype(np.int64).T
    length = audio.table.count[row].astype(np.int64)
    return {
        "row": row,
        "start": start,
        "stop": np.minimum(end, length),
        "label": np.array([index_of[str(line.mid)] for line in lines], np.int64),
        "late": end > length,
    }


def _check_left_out(
    path: str | Path,
    audio: Index,
    here: list[_Line],
    known: list[_Line],
    inside: np.ndarray,
    max_left_out: float,
    option: str,
) -> None:
    """ShardError if too many of the events ``here`` cannot be used."""
    num_left_out = len(here) - int(inside.sum())
    if num_left_out <= max_left_out * len(here):
        return
    outside = [known[i] for i in np.flatnonzero(~inside).tolist()]
    strange = [line for line in here if line.mid not in audio.classes.index_of]
    parts = []
    if strange:
        mids = list(Counter(line.mid for line in strange).most_common())
        named = ", ".join(f"{mid!r} ({n})" for mid, n in mids[:MAX_NAMED])
        more = f" and {len(mids) - MAX_NAMED} more" if len(mids) > MAX_NAMED else ""
        parts.append(
            f"{len(strange)} events have mids that are not in the class list: {named}"
            f"{more}, first at line {strange[0].number}"
        )
    if outside:
        line = outside[0]
        parts.append(
            f"{len(outside)} events have nothing inside their clip, first at line "
            f"{line.number}: {line.start_seconds:g} to {line.end_seconds:g} s of "
            f"{line.segment!r}"
        )
    share = math.ceil(1000 * num_left_out / len(here)) / 1000
    raise ShardError(
        f"{path}: {'; '.join(parts)}; of {len(here)} events of these clips "
        f"{num_left_out} would be left out; give the class list and clips they were "
        f"made for, or {option}{share:g}"
    )


def events_in_chunks(
    start: np.ndarray,
    stop: np.ndarray,
    num_samples: np.ndarray,
    *,
    chunking: Chunking,
    min_samples: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (event, chunk) [P] int64: the chunks of its clip each event counts for.

    An event counts for a chunk if at least ``min_samples`` samples of it, or half of
    it, lie in the chunk; so a short one is not lost. ``start``, ``stop`` and
    ``num_samples`` [E] are of the event and of its clip.
    """
    hop, last_chunk = chunking.hop_samples, chunking.num_chunks(num_samples) - 1
    first = np.maximum((start - chunking.chunk_samples) // hop + 1, 0)
    last = np.minimum((stop - 1) // hop, last_chunk)
    num = np.maximum(last - first + 1, 0)
    event = np.repeat(np.arange(len(start)), num)
    chunk = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num - first, num)
    begin, end = chunking.bounds(chunk, num_samples[event])
    inside = np.minimum(stop[event], end) - np.maximum(start[event], begin)
    enough = np.minimum(min_samples, (stop - start + 1) // 2)[event]
    counts = inside >= np.maximum(enough, 1)
    return event[counts], chunk[counts]
