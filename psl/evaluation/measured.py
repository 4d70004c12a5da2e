"""Metrics and how sure they are.

Owns which intervals an evaluation has, and when there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.evaluation.bootstrap import MIN_POSITIVES, interval, resample
from psl.evaluation.config import DEFAULT_RESAMPLES
from psl.evaluation.labels import Labels
from psl.evaluation.metrics import Metrics
from psl.evaluation.score_tables import ScoreTable
from psl.evaluation.student import CONFIDENCE

BOUNDS = {"d_prime": (-math.inf, math.inf)}
"""Of metrics that are not in [0, 1]."""


@dataclass(frozen=True)
class Measured:
    """The metrics of scores against labels, with 95 % intervals over clips."""

    metrics: Metrics
    intervals: dict[str, tuple[float, float] | None]
    """By the name a metric is logged under; None where there is none; empty without a
    bootstrap."""
    ap_interval: np.ndarray
    """[C, 2] of each class' AP, NaN where there is none."""
    num_resamples: int
    seed: int

    def summary(self) -> dict[str, Any]:
        """The scalars and their intervals, as strict JSON has them."""
        values = self.metrics.summary()
        if not self.num_resamples:
            return values
        about = {
            "resamples": self.num_resamples,
            "seed": self.seed,
            "confidence": CONFIDENCE,
        }
        return {**values, "intervals": self.intervals, "bootstrap": about}


def measure(
    metrics: Metrics,
    targets: np.ndarray | Labels,
    scores: np.ndarray | ScoreTable,
    *,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Measured:
    """``metrics``, which are of scores [R, C] against targets [R, C], with intervals.

    One clip has none, and neither has the AP of a class with one positive clip.
    """
    ap_interval = np.full((targets.shape[1], 2), np.nan)
    number = num_resamples
    if not number:
        return Measured(metrics, {}, ap_interval, 0, seed)
    values = metrics.summary()
    if targets.shape[0] == 1:
        names = ("mAP", "AUC", "d_prime", "lwlrap", "recall_at_0.2")
        return Measured(metrics, dict.fromkeys(names), ap_interval, number, seed)
    found = resample(targets, scores, num_resamples=number, seed=seed)
    intervals = {}
    for name, resampled in found.scalars().items():
        value, bounds = values[name], BOUNDS.get(name, (0.0, 1.0))
        known = value is not None
        intervals[name] = interval(value, resampled, bounds=bounds) if known else None
    for c in np.flatnonzero(metrics.num_positives >= MIN_POSITIVES):
        of_class = interval(float(metrics.ap[c]), found.ap[:, c].astype(np.float64))
        ap_interval[c] = of_class or np.nan
    return Measured(metrics, intervals, ap_interval, number, seed)
