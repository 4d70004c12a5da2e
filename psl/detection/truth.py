"""What is true of the clips that are measured: events in seconds, and segments.

Owns the way from samples of a dataset to seconds of a clip. true_events.py reads the
file, and segments.py has the rule by which an event counts for a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psl.detection.events import NO_EVENTS, Events, ScoredClip
from psl.evaluation import true_events
from psl.evaluation.frames import frame_edges
from psl.evaluation.segments import SEGMENT_SECONDS, Segments, default_overlap
from shards.format.index import Index


@dataclass(frozen=True)
class Truth:
    """The truth of the clips of one dataset that a strong CSV names."""

    audio: Index
    events: dict[int, Events]
    """Of each clip that has any, by its row; joined."""
    segments: Segments | None
    """Of 1 s, of all these clips; None if nothing is known of any."""

    @staticmethod
    def of(
        found: true_events.Events, audio: Index, columns: Sequence[int] | None = None
    ) -> Truth:
        """From what the CSV says.

        ``columns`` are the classes that are measured, None for all: class
        ``columns[c]`` of ``audio`` becomes class c.
        """
        columns = range(len(audio.classes)) if columns is None else columns
        segments = Segments.of(
            found,
            audio,
            columns,
            segment_seconds=SEGMENT_SECONDS,
            min_overlap=default_overlap(SEGMENT_SECONDS),
        )
        events = events_by_row(found, columns, audio.properties["sample_rate"])
        return Truth(audio, events, segments)

    def clip(
        self, row: int, scores: np.ndarray, starts: np.ndarray, stops: np.ndarray
    ) -> ScoredClip:
        """Clip ``row`` with scores [T, C] of frames from ``starts`` to ``stops`` [T].

        These are samples, and the frames cover the clip.
        """
        pooled = np.zeros((0, scores.shape[1]), np.float32)
        if self.segments is not None:
            length = int(self.audio.table.count[row])
            shares = self.segments.shares(length, starts, stops).astype(np.float32)
            pooled = shares.T @ scores.astype(np.float32)
        return ScoredClip(
            self.audio.key(row),
            scores,
            frame_edges(starts, stops) / self.audio.properties["sample_rate"],
            self.events.get(row, NO_EVENTS),
            pooled,
        )


def events_by_row(
    found: true_events.Events, columns: Sequence[int], sample_rate: int
) -> dict[int, Events]:
    """The events of each clip that has any, by its row; joined.

    Class ``columns[c]`` of ``found`` becomes class c; events of others are left out.
    """
    place = {label: column for column, label in enumerate(columns)}
    rows: dict[int, list[tuple[int, float, float]]] = {}
    for row, start, stop, label in zip(
        found.row.tolist(),
        found.start.tolist(),
        found.stop.tolist(),
        found.label.tolist(),
        strict=True,
    ):
        if label in place:
            event = (place[label], start / sample_rate, stop / sample_rate)
            rows.setdefault(row, []).append(event)
    return {row: Events.of(listed).joined() for row, listed in rows.items()}
