"""F1 of detected events against true ones: by event and by segment.

Owns when a detection counts as right: DCASE's rule for events (onset within 0.2 s,
offset within 0.2 s or a fifth of the event; Mesaros, Heittola and Virtanen, "Metrics
for polyphonic sound event detection", 2016), and activity in 1-s segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from psl.detection.events import Events

COLLAR_SECONDS = 0.2
"""How far onset and offset may be off."""
OFFSET_SHARE = 0.2
"""The offset may be off by this share of the true event, if that is more."""
SEGMENT_SECONDS = 1.0

Pair = tuple[Events, Events]
"""Detected and true events of a clip."""


@dataclass(frozen=True)
class Counts:
    """How often a class was found, found in vain, and missed."""

    true_positives: np.ndarray
    """[C] int64."""
    false_positives: np.ndarray
    """[C] int64."""
    false_negatives: np.ndarray
    """[C] int64."""

    @property
    def f1(self) -> np.ndarray:
        """[C] F1 of each class; NaN without a true event."""
        hits = 2.0 * self.true_positives
        total = hits + self.false_positives + self.false_negatives
        has_truth = self.true_positives + self.false_negatives > 0
        return np.where(has_truth, hits / np.maximum(total, 1), np.nan)

    @property
    def macro_f1(self) -> float:
        """The mean over the classes with a true event; NaN without one."""
        f1 = self.f1[~np.isnan(self.f1)]
        return float(f1.mean()) if len(f1) else math.nan

    @property
    def micro_f1(self) -> float:
        """F1 of all events of all classes together; NaN without any."""
        hits = 2.0 * self.true_positives.sum()
        total = hits + self.false_positives.sum() + self.false_negatives.sum()
        return float(hits / total) if total else math.nan


def count_events(pairs: Iterable[Pair], num_classes: int) -> Counts:
    """Events of each class, as many matched one to one as can be."""
    hits, detected, true = np.zeros((3, num_classes), np.int64)
    for found, truth in pairs:
        detected += np.bincount(found.label, minlength=num_classes)
        true += np.bincount(truth.label, minlength=num_classes)
        for label in np.intersect1d(found.label, truth.label):
            hits[label] += _num_matches(found.of_class(label), truth.of_class(label))
    return Counts(hits, detected - hits, true - hits)


def _num_matches(found: Events, truth: Events) -> int:
    """The size of the largest one-to-one matching, by augmenting paths."""
    collar = np.maximum(COLLAR_SECONDS, OFFSET_SHARE * (truth.offset - truth.onset))
    onsets = np.abs(found.onset[:, None] - truth.onset)
    offsets = np.abs(found.offset[:, None] - truth.offset)
    fits = (onsets <= COLLAR_SECONDS + 1e-9) & (offsets <= collar + 1e-9)
    partner = [-1] * len(truth)

    def place(detection: int, tried: set[int]) -> bool:
        for event in np.flatnonzero(fits[detection]):
            if event not in tried:
                tried.add(int(event))
                if partner[event] < 0 or place(partner[event], tried):
                    partner[event] = detection
                    return True
        return False

    return sum(place(detection, set()) for detection in range(len(found)))


def count_segments(
    pairs: Iterable[Pair], seconds: Sequence[float], num_classes: int
) -> Counts:
    """Segments in which each class is active, of clips that have these ``seconds``.

    A class is active in each segment that one of its events reaches into.
    """
    hits, extra, missed = np.zeros((3, num_classes), np.int64)
    for (found, truth), length in zip(pairs, seconds, strict=True):
        active = [_activity(events, length, num_classes) for events in (found, truth)]
        hits += (active[0] & active[1]).sum(axis=0)
        extra += (active[0] & ~active[1]).sum(axis=0)
        missed += (~active[0] & active[1]).sum(axis=0)
    return Counts(hits, extra, missed)


def _activity(events: Events, seconds: float, num_classes: int) -> np.ndarray:
    """[S, C] bool, whether the class sounds in the segment."""
    number = max(1, math.ceil(round(seconds / SEGMENT_SECONDS, 6)))
    active = np.zeros((number, num_classes), np.bool_)
    for label, onset, offset in zip(
        events.label, events.onset, events.offset, strict=True
    ):
        first = math.floor(round(onset / SEGMENT_SECONDS, 6))
        past = math.ceil(round(offset / SEGMENT_SECONDS, 6))
        active[first:past, label] = True
    return active
