"""Metrics of multi-label tagging, in NumPy.

Owns their definitions: average precision and AUC as scikit-learn defines them (tied
scores count as one threshold), d' after the AudioSet paper, lwlrap, recall at a
threshold. Classes without a positive clip have no AP, AUC or recall and stay out of the
means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from psl.evaluation.labels import Labels
from psl.evaluation.score_tables import ScoreTable, as_table

RECALL_THRESHOLD = 0.2
_PAIR_VALUES = 1 << 20
"""Scores that are compared with labels' in one go."""
NO_AUC = "no class has both clips with it and clips without it"


@dataclass(frozen=True)
class Metrics:
    """Metrics of one evaluation."""

    mean_ap: float
    """Mean of the classes' average precision, in [0, 1]."""
    mean_auc: float
    """Mean of the classes' area under the ROC curve, in [0, 1]."""
    d_prime: float
    """sqrt(2) * Phi^-1(mean_auc)."""
    lwlrap: float
    """Label-weighted label-ranking average precision, in [0, 1]: how high each clip's
    labels stand among the classes."""
    recall: float
    """Mean over classes of the share of positives scored at least 0.2."""
    num_clips: int
    num_classes_with_positives: int
    ap: np.ndarray
    """[C] average precision per class, NaN without positives."""
    num_positives: np.ndarray
    """[C] positive clips per class."""

    def summary(self) -> dict[str, Any]:
        """The scalars, by the names they are logged under, as strict JSON has them.

        One that is not a finite number is None, and ``undefined`` gives the reason.
        """
        values: dict[str, Any] = {
            "mAP": self.mean_ap,
            "AUC": self.mean_auc,
            "d_prime": self.d_prime,
            "lwlrap": self.lwlrap,
            "recall_at_0.2": self.recall,
            "num_clips": self.num_clips,
            "num_classes_with_positives": self.num_classes_with_positives,
        }
        reasons = {}
        if math.isnan(self.mean_auc):
            reasons = dict.fromkeys(("AUC", "d_prime"), NO_AUC)
        elif math.isinf(self.d_prime):
            reasons = {"d_prime": f"infinite, since AUC is {self.mean_auc:g}"}
        values |= dict.fromkeys(reasons)
        return {**values, "undefined": reasons} if reasons else values


def evaluate_scores(
    targets: np.ndarray | Labels, scores: np.ndarray | ScoreTable
) -> Metrics:
    """Metrics of scores [R, C] against targets [R, C] in {0, 1}.

    Of a table on disk, one class (a few where clips are few) or one block of clips is
    in memory at a time. Raises ValueError if shapes differ, a score is not finite, or
    no class has a positive clip.
    """
    labels, table = Labels.of(targets), as_table(scores)
    if labels.shape != table.shape:
        raise ValueError(f"targets {labels.shape} and scores {table.shape} differ")
    check_finite(table)
    counted = labels.num_positives > 0
    if not counted.any():
        raise ValueError("no class has a positive clip; nothing to measure")
    ap, auc = np.full((2, len(counted)), np.nan)
    hits = np.zeros(len(counted), np.int64)
    for c, column in enumerate(table.columns()):
        if counted[c]:
            ap[c], auc[c] = _precision_and_area(labels.has(c), column)
            hits[c] = (column[labels.clips_with(c)] >= RECALL_THRESHOLD).sum()
    mean_auc = float(np.nanmean(auc)) if np.isfinite(auc).any() else float("nan")
    return Metrics(
        mean_ap=float(ap[counted].mean()),
        mean_auc=mean_auc,
        d_prime=d_prime(mean_auc),
        lwlrap=lwlrap(labels, table),
        recall=float((hits[counted] / labels.num_positives[counted]).mean()),
        num_clips=labels.num_clips,
        num_classes_with_positives=int(counted.sum()),
        ap=ap,
        num_positives=labels.num_positives,
    )


def check_finite(scores: np.ndarray | ScoreTable) -> None:
    """ValueError naming the first score of [R, C] that is not finite."""
    for start, block in as_table(scores).row_blocks():
        if not np.isfinite(block).all():
            row, column = np.argwhere(~np.isfinite(block))[0]
            raise ValueError(
                f"score of clip {start + row}, class {column} is not finite"
            )


def _counts_by_threshold(
    positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives [U] at each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(positive[order])[last_of_tie]
    return true, last_of_tie + 1 - true


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Sum of precision times gain in recall over thresholds; NaN without positives."""
    if not positive.any():
        return float("nan")
    return average_precision_of_counts(*_counts_by_threshold(positive, scores))


def average_precision_of_counts(true: np.ndarray, false: np.ndarray) -> float:
    """The same from true and false positives [U] at each threshold, highest first.

    The last threshold takes in all, at least one positive; none takes in nothing.
    """
    gain = np.diff(true, prepend=0) / true[-1]
    return float((gain * true / (true + false)).sum())


def area_under_roc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve (trapezoids); NaN without positives or negatives."""
    return _area_of_counts(*_counts_by_threshold(positive, scores))


def _area_of_counts(true: np.ndarray, false: np.ndarray) -> float:
    num_positive, num_negative = int(true[-1]), int(false[-1])
    if not num_positive or not num_negative:
        return float("nan")
    true, false = np.append(0, true), np.append(0, false)
    area = (np.diff(false) * (true[1:] + true[:-1]) / 2).sum()
    return float(area / num_positive / num_negative)


def _precision_and_area(
    positive: np.ndarray, scores: np.ndarray
) -> tuple[float, float]:
    """Average precision and area under the ROC curve, of one sort; with a positive."""
    true, false = _counts_by_threshold(positive, scores)
    return average_precision_of_counts(true, false), _area_of_counts(true, false)


def lwlrap(targets: np.ndarray | Labels, scores: np.ndarray | ScoreTable) -> float:
    """Mean of label_precisions over all (clip, label) pairs (DCASE 2019, task 2).

    scikit-learn's label_ranking_average_precision_score with a clip's number of labels
    as its weight. NaN without a label.
    """
    precision = label_precisions(Labels.of(targets), as_table(scores))
    return float(precision.mean()) if len(precision) else float("nan")


def label_precisions(labels: Labels, scores: ScoreTable) -> np.ndarray:
    """The precision [L] of each label, in the order of ``labels``.

    Precision: of the classes that score at least as high in its clip, the share that
    are labels of the clip.
    """
    precision = np.empty(len(labels.clip))
    step = max(1, _PAIR_VALUES // max(1, labels.num_classes))
    for first, block in scores.row_blocks():
        positive = labels.targets(first, first + len(block))
        span = labels.span(first, first + len(block))
        for start in range(span.start, span.stop, step):
            part = slice(start, min(start + step, span.stop))
            rows = labels.clip[part] - first
            own = block[rows, labels.label[part]]
            above = block[rows] >= own[:, None]
            precision[part] = (above & positive[rows]).sum(1) / above.sum(1)
    return precision


def d_prime(auc: float) -> float:
    """sqrt(2) * Phi^-1(auc); infinite at 0 and 1 (Hershey et al., ICASSP 2017)."""
    if not 0.0 < auc < 1.0:
        return float("nan") if np.isnan(auc) else float("inf") * (1 if auc else -1)
    return float(np.sqrt(2.0) * NormalDist().inv_cdf(auc))
