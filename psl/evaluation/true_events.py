"""True events of the clips of a dataset, and the chunks they lie in.

Owns which events of a list are used, and the rule by which an event counts for a chunk.
event_lists.py reads the list. Measures nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from psl.evaluation.event_lists import Line, read_lines
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import Index

MAX_NAMED = 10
"""Unknown mids that an error names; all are in ``Events.unknown``."""


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
    """The events of the clips of ``audio``, from a list as ``read_lines`` reads it.

    Events of segments that are not in ``audio`` are counted. Raises ShardError naming
    file and line: unreadable, malformed, no event of these clips, or a share
    of their events beyond ``max_left_out`` with an unknown mid or with nothing inside
    the clip. ``option`` is how the user writes that limit.
    """
    lines = read_lines(path, audio.classes)
    segments = {line.segment for line in lines}
    rows = _find_rows({line.segment: line.keys for line in lines}, audio, path)
    here = [line for line in lines if line.segment in rows and line.mid is not None]
    if not here:
        found = f"segments such as {min(segments)!r}" if segments else "no event"
        if rows:
            found = f"{len(rows)} clips of this dataset, all without events"
        example = f", such as {audio.key(0)!r}" if len(audio) else ""
        raise ShardError(
            f"{path}: {found}; expected events of the clips of {audio.where}{example}"
        )
    num_events = sum(line.mid is not None for line in lines)
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
        num_elsewhere=num_events - len(here),
        num_segments_elsewhere=len(segments) - len(rows),
    )


def _find_rows(
    keys_of: dict[str, tuple[str, ...]], audio: Index, path: str | Path
) -> dict[str, int]:
    """The row of each segment that is in the dataset, by the first key that fits.

    ShardError if two are one clip, as files of one name in two folders may be.
    """
    wanted = {key.encode() for keys in keys_of.values() for key in keys}
    keys = enumerate(audio.table.key.tolist())
    row_of = {key.decode(): row for row, key in keys if key in wanted}
    found: dict[str, int] = {}
    segment_of: dict[int, str] = {}
    for segment, keys_of_it in keys_of.items():
        row = next((row_of[key] for key in keys_of_it if key in row_of), None)
        if row is None:
            continue
        first = segment_of.setdefault(row, segment)
        if first != segment:
            raise ShardError(
                f"{path}: {first!r} and {segment!r} would both be clip "
                f"{audio.key(row)!r} of {audio.where}; leave out those of files that "
                "were not packed"
            )
        found[segment] = row
    return found


def _place(
    lines: list[Line], rows: dict[str, int], audio: Index
) -> dict[str, np.ndarray]:
    """Columns of Events [E], in the order of the file, and which were ``late``."""
    rate, index_of = audio.properties["sample_rate"], audio.classes.index_of
    row = np.array([rows[line.segment] for line in lines], np.int64)
    times = [(line.start_seconds, line.end_seconds) for line in lines]
    seconds = np.array(times, np.float64).reshape(-1, 2)
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
    here: list[Line],
    known: list[Line],
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
    limit = f", or {option}{share:g}" if num_left_out < len(here) else ""
    raise ShardError(
        f"{path}: {'; '.join(parts)}; of {len(here)} events of these clips "
        f"{num_left_out} would be left out; give the class list and clips they were "
        f"made for{limit}"
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
