"""Which classes a model takes for which, from the scores of an evaluation.

Owns the measure. Weak labels leave out sounds that are there, so a pair may also be a
label that is missing; listening tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_CLIPS = 3
"""Clips of a class without the other, fewer of which say nothing."""


@dataclass(frozen=True)
class Pair:
    """A class that is scored high where another one is labelled and it is not."""

    label: int
    taken_for: int
    score: float
    """Mean score of ``taken_for`` on the clips with ``label`` and without it."""
    elsewhere: float
    """The same on the clips with neither."""
    num_clips: int
    """With ``label`` and without ``taken_for``."""


def confused(targets: np.ndarray, scores: np.ndarray, *, most: int) -> list[Pair]:
    """Up to ``most`` pairs, the greatest rise of the score over ``elsewhere`` first.

    ``targets`` [R, C] bool, ``scores`` [R, C] in [0, 1].
    """
    with_label = targets.astype(np.float32)
    without = ~targets
    outside = np.where(without, scores, 0).astype(np.float32)
    # [a, b]: over the clips with a and without b
    counts = (with_label.T @ without.astype(np.float32)).astype(np.float64)
    sums = (with_label.T @ outside).astype(np.float64)
    other_counts = without.sum(axis=0) - counts
    other_sums = outside.sum(axis=0, dtype=np.float64) - sums
    mean = sums / np.maximum(counts, 1)
    elsewhere = np.maximum(other_sums, 0) / np.maximum(other_counts, 1)
    rise = np.where((counts >= MIN_CLIPS) & (other_counts >= 1), mean - elsewhere, 0.0)
    np.fill_diagonal(rise, 0.0)
    order = np.argsort(-rise, axis=None, kind="stable")[:most]
    found = []
    for a, b in zip(*np.unravel_index(order, rise.shape), strict=True):
        if rise[a, b] > 0:
            values = float(mean[a, b]), float(elsewhere[a, b])
            found.append(Pair(int(a), int(b), *values, int(counts[a, b])))
    return found
