"""What labels know about when, on the scale on which models are measured.

Owns how chunks become frames and which clips are measured. The measures are those of
psl.events (psl/detection) and of psl.evaluate (psl/evaluation/segments.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.detection.decode import Rule
from psl.detection.events import NO_EVENTS, ScoredClip
from psl.detection.measure import Measured, measure
from psl.detection.truth import events_by_row
from psl.evaluation.frames import covering_bounds, frame_edges
from psl.evaluation.segments import (
    SEGMENT_SECONDS,
    SegmentMetrics,
    Segments,
    default_overlap,
    measure_segments,
)
from psl.evaluation.true_events import Events
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import Index


@dataclass(frozen=True)
class InTime:
    """Events and segments of labels against the true ones."""

    events: Measured
    segments: SegmentMetrics
    num_candidates: int
    """Clips with labels that the CSV names, of which those measured were drawn."""

    def summary(self) -> dict[str, Any]:
        """Its part of report.json."""
        found = self.events.summary()
        del found["version"]
        return {
            **found,
            "segment_mAP": self.segments.summary()["mAP"],
            "num_candidates": self.num_candidates,
        }

    def per_class(self) -> dict[str, np.ndarray]:
        """Columns [C] of the per-class table; NaN without a true event."""
        return {
            "psds1": self.events.psds1.per_class,
            "psds2": self.events.psds2.per_class,
            "event_f1": self.events.event_f1,
            "segment_f1": self.events.segment_f1,
            "segment_ap": self.segments.ap,
        }


def measure_in_time(
    audio: Index,
    labels: Index,
    chunking: Chunking,
    events: Events,
    *,
    rules: Sequence[Rule],
    max_clips: int,
) -> InTime | None:
    """Measure ``labels`` with each chunk as a frame; None if there is no event.

    Of the clips that have labels and whose events are known, at most ``max_clips`` are
    measured, evenly spaced. Chunks that overlap stand for what is nearest to their
    middles. ``rules`` [C] find the events whose F1 is measured. Raises ShardError
    naming a clip whose labels cannot be read.
    """
    known = np.flatnonzero(events.covered & (labels.table.count > 0))
    number = min(len(known), max_clips)
    rows = known[np.arange(number) * len(known) // max(number, 1)]
    events = events.only(rows)
    segments = Segments.of(
        events,
        audio,
        segment_seconds=SEGMENT_SECONDS,
        min_overlap=default_overlap(SEGMENT_SECONDS),
    )
    if not segments.truth.any():
        return None
    clips, scores = _score(audio, labels, chunking, events, segments)
    columns = list(range(len(audio.classes)))
    return InTime(
        measure(clips, rules),
        measure_segments(segments, scores, columns),
        num_candidates=len(known),
    )


def _score(
    audio: Index,
    labels: Index,
    chunking: Chunking,
    events: Events,
    segments: Segments,
) -> tuple[list[ScoredClip], np.ndarray]:
    """The clips of ``segments`` as psl.events has them, and scores [S, C] of these."""
    rate, num_classes = audio.properties["sample_rate"], len(audio.classes)
    truth = events_by_row(events, range(num_classes), rate)
    reader, clips, scores = MemberReader(labels), [], []
    for row in segments.rows.tolist():
        length, probs = int(audio.table.count[row]), reader.labels(row)
        starts, stops = covering_bounds(chunking, length)
        edges = frame_edges(starts, stops) / rate
        own = truth.get(row, NO_EVENTS)
        clips.append(ScoredClip(audio.key(row), probs, edges, own))
        shares = segments.shares(length, starts, stops)
        scores.append(shares.T @ probs.astype(np.float64))
    return clips, np.concatenate(scores)
