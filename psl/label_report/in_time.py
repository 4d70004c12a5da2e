"""What labels know about when, on the scale on which models are measured.

Owns how chunks become frames and which clips are measured. The measures are those of
psl.events (psl/detection/measure.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.detection.decode import Rule
from psl.detection.measure import Measured, measure
from psl.detection.truth import Truth
from psl.evaluation.frames import covering_bounds
from psl.evaluation.true_events import Events
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import Index


@dataclass(frozen=True)
class InTime:
    """Events and segments of labels against the true ones."""

    measured: Measured
    num_candidates: int
    """Clips with labels that the CSV names, of which those measured were drawn."""

    def summary(self) -> dict[str, Any]:
        """Its part of report.json."""
        found = self.measured.summary()
        del found["version"]
        return {**found, "num_candidates": self.num_candidates}


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
    truth = Truth.of(events.only(rows), audio)
    if truth.segments is None or not len(truth.segments.truth.clip):
        return None
    reader, clips = MemberReader(labels), []
    for row in rows.tolist():
        bounds = covering_bounds(chunking, int(audio.table.count[row]))
        clips.append(truth.clip(row, reader.labels(row), *bounds))
    return InTime(measure(clips, rules, truth.segments), num_candidates=len(known))
