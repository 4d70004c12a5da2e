"""Frame probabilities -> events: threshold, median filter, gaps and minimum length.

Owns these rules, their file, and fitting them to a set with known events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from psl.detection.events import Events, ScoredClip
from psl.detection.f1 import Counts, count_events, count_segments

THRESHOLDS = np.round(np.concatenate([[0.01, 0.02], np.arange(0.05, 1.0, 0.05)]), 2)
"""Those that are tried."""
MEDIAN_SECONDS = (0.0, 0.5, 1.0, 2.0)
"""Lengths of median filters that are tried, s."""


@dataclass(frozen=True)
class Rule:
    """How the probabilities of one class become events."""

    threshold: float = 0.5
    """A frame sounds if its probability is at least this."""
    median_seconds: float = 0.0
    """Length of a median filter over the probabilities, s; 0 for none."""
    min_seconds: float = 0.0
    """Shorter events are dropped, s."""
    max_gap_seconds: float = 0.0
    """Shorter gaps between events are filled, s."""


def decode(scores: np.ndarray, edges: np.ndarray, rules: Sequence[Rule]) -> Events:
    """Events of frame probabilities [T, C]; frame t lies between edges t and t + 1 (s).

    First the filter, then the threshold, then gaps, then the minimum length. Raises
    ValueError for a probability that is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a probability is not finite; the model is broken")
    rows = []
    thresholds = np.array([rule.threshold for rule in rules], scores.dtype)
    reached = scores.max(axis=0) >= thresholds  # no median is above the maximum
    for label in np.flatnonzero(reached).tolist():
        rule = rules[label]
        smooth = median_filter(scores[:, label], edges, rule.median_seconds)
        for onset, offset in _runs(smooth >= rule.threshold, edges, rule):
            rows.append((label, onset, offset))
    return Events.of(rows)


def median_filter(scores: np.ndarray, edges: np.ndarray, seconds: float) -> np.ndarray:
    """[T, ...] each the median of the odd number of frames nearest to ``seconds``.

    The ends are repeated.
    """
    frame = (edges[-1] - edges[0]) / len(scores)
    half = int(round(seconds / frame) // 2)
    if half < 1:
        return scores
    ends = ((half, half), *((0, 0) for _ in scores.shape[1:]))
    padded = np.pad(scores, ends, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=0)
    return np.median(windows, axis=-1)


def _runs(
    active: np.ndarray, edges: np.ndarray, rule: Rule
) -> list[tuple[float, float]]:
    """Onset and offset of each event, s."""
    change = np.diff(np.pad(active.astype(np.int8), 1))
    onsets, offsets = edges[:-1][change[:-1] > 0], edges[1:][change[1:] < 0]
    runs: list[tuple[float, float]] = []
    for onset, offset in zip(onsets.tolist(), offsets.tolist(), strict=True):
        if runs and onset - runs[-1][1] <= rule.max_gap_seconds:
            runs[-1] = (runs[-1][0], offset)
        else:
            runs.append((onset, offset))
    return [run for run in runs if run[1] - run[0] >= rule.min_seconds]


def fit_rules(
    clips: Sequence[ScoredClip], num_classes: int, *, measure: str, base: Rule
) -> list[Rule]:
    """The rule of each class that gives the highest F1 on ``clips``.

    ``measure`` is ``event`` or ``segment``; thresholds and median filters are tried,
    the rest is of ``base``. Of equal ones the higher threshold wins, then the shorter
    filter; a class without a true event keeps ``base``.
    """
    best = np.full(num_classes, -1.0)
    rules = [base] * num_classes
    for median_seconds in MEDIAN_SECONDS:
        filtered = [
            replace(clip, scores=median_filter(clip.scores, clip.edges, median_seconds))
            for clip in clips
        ]
        for threshold in THRESHOLDS[::-1].tolist():
            rule = replace(base, threshold=threshold, median_seconds=0.0)
            f1 = count(filtered, [rule] * num_classes, measure).f1
            for label in np.flatnonzero(f1 > best + 1e-12):
                best[label] = f1[label]
                rules[label] = replace(rule, median_seconds=median_seconds)
    return rules


def count(clips: Sequence[ScoredClip], rules: Sequence[Rule], measure: str) -> Counts:
    """How often each class is found in ``clips``, by ``event`` or by ``segment``."""
    pairs = [(decode(c.scores, c.edges, rules), c.truth) for c in clips]
    if measure == "event":
        return count_events(pairs, len(rules))
    seconds = [float(clip.edges[-1]) for clip in clips]
    return count_segments(pairs, seconds, len(rules))
