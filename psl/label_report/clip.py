"""One clip of a label report: its labels over time, weak labels and true events.

Owns finding it and putting it together; pictures.py draws it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psl.evaluation.true_events import Events
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import Index


@dataclass(frozen=True)
class ClipView:
    """What is drawn of one clip."""

    key: str
    why: str
    """Why this clip was chosen."""
    probs: np.ndarray
    """[K, C] labels."""
    edges: np.ndarray
    """[K + 1] limits of the chunks, s; if they overlap, half way between centres."""
    chunk_seconds: float
    weak: list[int]
    """Classes of its weak labels."""
    events: list[tuple[float, float, int]] | None
    """Start and end, s, and class of its true events; None if they are not known."""
    names: tuple[str, ...]
    """Display names of all classes."""
    threshold: float


def find_clip(labels: Index, key: str) -> int:
    """The row of the clip ``key``; ValueError if none of this key has labels."""
    found = np.flatnonzero(labels.table.key == key.encode())
    if len(found) and labels.table.count[found[0]]:
        return int(found[0])
    example = f", such as {labels.key(0)}" if len(labels) else ""
    raise ValueError(
        f"--clip {key}: no clip of this key has labels in {labels.where}; expected a "
        f"key{example}"
    )


def view_clip(
    audio: Index,
    labels: Index,
    chunking: Chunking,
    row: int,
    *,
    events: Events | None,
    threshold: float,
    why: str,
) -> ClipView:
    """What is drawn of clip ``row``."""
    rate, probs = audio.properties["sample_rate"], MemberReader(labels).labels(row)
    begin, end = chunking.bounds(np.arange(len(probs)), int(audio.table.count[row]))
    # of chunks that overlap, half way between the middles of two neighbours
    limits = (end[:-1] + begin[1:]) / 2
    return ClipView(
        key=audio.key(row),
        why=why,
        probs=probs,
        edges=np.concatenate([begin[:1], limits, end[-1:]]) / rate,
        chunk_seconds=chunking.chunk_samples / rate,
        weak=audio.table.label[slice(*audio.table.label_start[row : row + 2])].tolist(),
        events=_events_of(events, row, rate),
        names=audio.classes.names,
        threshold=threshold,
    )


def _events_of(
    events: Events | None, row: int, rate: int
) -> list[tuple[float, float, int]] | None:
    if events is None or not events.covered[row]:
        return None
    these = events.of_rows(row, row + 1)
    start, stop = (column[these] / rate for column in (events.start, events.stop))
    label = events.label[these].tolist()
    return list(zip(start.tolist(), stop.tolist(), label, strict=True))
