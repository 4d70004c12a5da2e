"""Mean, spread and interval of a few seeds.

Owns the arithmetic and how it is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from psl.evaluation.student import CONFIDENCE, student_quantile


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean by Student's t; None of a single value."""
    if len(values) < 2:
        return None
    t = student_quantile((1 + CONFIDENCE) / 2, len(values) - 1)
    half = t * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def described(values: Sequence[float]) -> str:
    """``61.2 ± 0.8 (59.2 to 63.2)``: mean, standard deviation, interval."""
    text, limits = f"{fmean(values):.1f}", interval(values)
    if limits is None:
        return text
    return f"{text} ± {stdev(values):.1f} ({limits[0]:.1f} to {limits[1]:.1f})"
