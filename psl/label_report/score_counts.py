"""Counts of float16 scores by value: exact curves in one pass, in bounded memory.

A float16 in [0, 1] has one of 15361 bit patterns, whose order is that of the values.
How often each occurs, by class, decides average precision, precision and recall at any
threshold, and calibration; so 2 million clips need no more memory than two. Owns the
counting and the curves; what a group of scores means is the caller's.
"""

from __future__ import annotations

import numpy as np

from psl.evaluation.metrics import average_precision_of_counts

NUM_VALUES = 0x3C00 + 1
"""Bit patterns of the float16 values from 0 to 1."""
VALUES = np.arange(NUM_VALUES, dtype=np.uint16).view(np.float16).astype(np.float64)
"""[V] the value of each pattern, ascending."""


class ScoreCounts:
    """How often each class had each score, in a few groups (such as true and false)."""

    def __init__(self, num_groups: int, num_classes: int) -> None:
        """Memory is taken as groups are used: 32 MB each for 527 classes."""
        self.counts = np.zeros((num_groups, num_classes, NUM_VALUES), np.uint32)

    def add(self, scores: np.ndarray, groups: np.ndarray) -> None:
        """Count scores [N, C] float16 in [0, 1], each in its group [N, C] uint8."""
        num_classes = self.counts.shape[1]
        places = (groups.astype(np.int64) * num_classes + np.arange(num_classes)) * (
            NUM_VALUES
        )
        places += scores.view(np.uint16) & 0x7FFF  # -0.0 is 0
        np.add.at(self.counts.reshape(-1), places.reshape(-1), np.uint32(1))


def rank_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """[C] average precision from counts [C, V] by value; NaN without positives.

    Scores of one value count as one threshold, as in scikit-learn.
    """
    ap = np.full(len(positive), np.nan)
    for c, (true, false) in enumerate(zip(positive, negative, strict=True)):
        used = np.flatnonzero(true + false)[::-1]
        if true.any():
            ap[c] = average_precision_of_counts(
                np.cumsum(true[used], dtype=np.int64),
                np.cumsum(false[used], dtype=np.int64),
            )
    return ap


def at_least(counts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """[..., T] how many of the scores counted in [..., V] reach each threshold [T].

    Thresholds are rounded to float16 as the scores were, so that 0.2 reaches 0.2.
    """
    from_value = np.cumsum(counts[..., ::-1], axis=-1, dtype=np.int64)[..., ::-1]
    none = np.zeros((*counts.shape[:-1], 1), np.int64)
    first = np.searchsorted(VALUES, np.float16(thresholds), side="left")
    return np.concatenate([from_value, none], axis=-1)[..., first]


def reliability(
    positive: np.ndarray, negative: np.ndarray, num_bins: int
) -> dict[str, np.ndarray]:
    """Score against share of positives in bins of equal width, from counts [V].

    Keys: ``count`` [B], ``mean_score`` [B] and ``share_true`` [B], NaN in empty bins.
    The last bin holds 1; the limits of the bins are rounded to float16. Source: Guo et
    al., ICML 2017, section 2.
    """
    limits = np.float16(np.arange(1, num_bins) / num_bins)
    bins = np.searchsorted(limits, VALUES, side="right")

    def per_bin(weights: np.ndarray) -> np.ndarray:
        return np.bincount(bins, weights, num_bins)

    count = per_bin(positive + negative)
    with np.errstate(invalid="ignore"):
        return {
            "count": count.astype(np.int64),
            "mean_score": per_bin((positive + negative) * VALUES) / count,
            "share_true": per_bin(positive) / count,
        }


def calibration_error(curve: dict[str, np.ndarray]) -> float:
    """Mean distance of score and share of positives, bins weighted by their counts.

    Expected calibration error (Guo et al., equation 3); NaN without a score.
    """
    used = curve["count"] > 0
    if not used.any():
        return float("nan")
    distance = np.abs(curve["mean_score"] - curve["share_true"])[used]
    return float(np.average(distance, weights=curve["count"][used]))
