"""Which classes a model takes for which, from the scores of an evaluation.

Owns the measure. Weak labels leave out sounds that are there, so a pair may also be a
label that is missing; listening tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from psl.evaluation.labels import Labels

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


def confused(
    labels: Labels, blocks: Iterable[tuple[int, np.ndarray]], *, most: int
) -> list[Pair]:
    """Up to ``most`` pairs, the greatest rise of the score over ``elsewhere`` first.

    ``blocks`` are clips in their order: the first one's number, and scores [b, C] in
    [0, 1]. One is in memory at a time.
    """
    # [a, b]: over the clips with a and without b
    counts, sums = np.zeros((2, labels.num_classes, labels.num_classes))
    num_without, sum_outside = np.zeros((2, labels.num_classes))
    for start, scores in blocks:
        targets = labels.targets(start, start + len(scores))
        with_label = targets.astype(np.float32)
        outside = np.where(targets, 0, scores).astype(np.float32)
        counts += with_label.T @ (~targets).astype(np.float32)
        sums += with_label.T @ outside
        num_without += (~targets).sum(axis=0)
        sum_outside += outside.sum(axis=0, dtype=np.float64)
    other_counts, other_sums = num_without - counts, sum_outside - sums
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
