"""How well events are found: PSDS, F1 of events and of segments, by class and over all.

Owns what psl.events reports, and its files.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.detection.decode import Rule, count
from psl.detection.events import ScoredClip
from psl.detection.psds import PSDS1, PSDS2, Psds, psds
from psl.evaluation.segments import SegmentMetrics, Segments, measure_segments
from shards.format.classes import Classes

VERSION = 1


@dataclass(frozen=True)
class Measured:
    """What was measured."""

    psds1: Psds
    psds2: Psds
    event_f1: np.ndarray
    """[C], NaN for a class without a true event."""
    segment_f1: np.ndarray
    """[C], the same."""
    segments: SegmentMetrics
    """Average precision of 1-s segments, as psl.evaluate has it."""
    num_events: np.ndarray
    """[C] true events."""
    num_clips: int
    frame_seconds: float
    """Median length of a frame."""

    def summary(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return {
            "version": VERSION,
            "psds1": self.psds1.value,
            "psds2": self.psds2.value,
            "event_f1_macro": _mean(self.event_f1),
            "segment_f1_macro": _mean(self.segment_f1),
            "segment_mAP": self.segments.summary()["mAP"],
            "num_clips": self.num_clips,
            "num_events": int(self.num_events.sum()),
            "num_classes": int((self.num_events > 0).sum()),
            "frame_seconds": self.frame_seconds,
        }

    def columns(self) -> dict[str, np.ndarray]:
        """[C] of each class; NaN without a true event."""
        return {
            "psds1": self.psds1.per_class,
            "psds2": self.psds2.per_class,
            "event_f1": self.event_f1,
            "segment_f1": self.segment_f1,
            "segment_ap": self.segments.ap,
        }

    def per_class(self, classes: Classes) -> str:
        """The content of per_class.csv, highest PSDS1 first."""
        columns = self.columns()
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["mid", "display_name", "num_events", *columns])
        order = np.argsort(-np.nan_to_num(columns["psds1"], nan=-1.0), kind="stable")
        for c in order:
            values = [_shown(column[c]) for column in columns.values()]
            facts = [classes.mids[c], classes.names[c], self.num_events[c]]
            writer.writerow([*facts, *values])
        return buffer.getvalue()


def measure(
    clips: Sequence[ScoredClip], rules: Sequence[Rule], segments: Segments
) -> Measured:
    """Measure ``clips`` with their events by ``rules``, one for each class.

    ``segments`` are those of the clips, in their order. Raises ValueError if there is
    no clip, no true event or no true segment, or a probability is NaN.
    """
    psds1 = psds(clips, PSDS1)
    labels = np.concatenate([clip.truth.label for clip in clips])
    frames = np.concatenate([np.diff(clip.edges) for clip in clips])
    return Measured(
        psds1=psds1,
        psds2=psds(clips, PSDS2),
        event_f1=count(clips, rules, "event").f1,
        segment_f1=count(clips, rules, "segment").f1,
        segments=measure_segments(
            segments, np.concatenate([clip.segment_scores for clip in clips])
        ),
        num_events=np.bincount(labels, minlength=len(rules)),
        num_clips=len(clips),
        frame_seconds=float(np.median(frames)),
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
