"""Thresholds of classes, fitted on scores of clips with known labels.

Owns the fit: per class the highest F1, or the lowest threshold that has a given
precision. psl/tagging/rules.py reads the file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shards.format.classes import Classes


@dataclass(frozen=True)
class Fit:
    """A threshold, and what it gives on the data that it was fitted on."""

    threshold: float | None
    """None if no threshold has the precision that was asked for."""
    f1: float | None
    precision: float | None
    recall: float | None


def fit(
    positive: np.ndarray, scores: np.ndarray, *, precision: float | None = None
) -> Fit:
    """The threshold of scores [R] for labels ``positive`` [R] bool, one at least.

    Without ``precision``, that of the highest F1, the higher of equal ones; else that
    with the highest recall of those with at least this precision. It lies halfway
    between the score that it takes in and the next lower one.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    taken = last_of_tie + 1
    true = np.cumsum(positive[order])[last_of_tie]
    precisions, recalls = true / taken, true / positive.sum()
    f1 = 2 * true / (taken + positive.sum())
    if precision is None:
        best = int(np.argmax(f1))
    else:
        good = np.flatnonzero((precisions >= precision) & (true > 0))
        if not len(good):
            return Fit(None, None, None, None)
        best = int(good[np.argmax(recalls[good])])
    upper = ordered[last_of_tie[best]]
    lower = ordered[taken[best]] if taken[best] < len(ordered) else 0.0
    middle = np.float32((upper + lower) / 2)  # in the type in which scores are compared
    return Fit(
        float(middle if lower < middle <= upper else np.float32(upper)),
        *(round(float(values[best]), 6) for values in (f1, precisions, recalls)),
    )


def fit_classes(
    targets: np.ndarray,
    scores: np.ndarray,
    classes: Classes,
    *,
    precision: float | None = None,
) -> dict[str, Any]:
    """The content of a thresholds file, from targets and scores [R, C].

    ``default`` is fitted on all classes together; classes without a positive clip get
    it. Raises ValueError if no class has one, or for a precision outside (0, 1].
    """
    if precision is not None and not 0 < precision <= 1:
        raise ValueError(f"precision = {precision:g}; expected above 0, up to 1")
    positive = targets > 0
    if not positive.any():
        raise ValueError("no class has a positive clip; nothing to fit thresholds on")
    entries = {}
    for c, mid in enumerate(classes.mids):
        if positive[:, c].any():
            found = fit(positive[:, c], scores[:, c], precision=precision)
            number = int(positive[:, c].sum())
            entries[mid] = {
                "name": classes.names[c],
                **asdict(found),
                "num_positives": number,
            }
    together = fit(positive.ravel(), scores.ravel(), precision=precision)
    return {
        "fitted_for": "f1" if precision is None else f"precision {precision:g}",
        "num_clips": len(targets),
        "default": together.threshold,
        "thresholds": entries,
    }
