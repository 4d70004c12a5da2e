"""The bootstrap over clips: what the metrics of other such clips would be.

Owns how clips are drawn (with replacement, as many as there are), the metrics of each
draw, and the intervals. A resample is a pure function of seed, number and how many
clips there are, so two models can be compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from psl.evaluation.labels import Labels
from psl.evaluation.metrics import RECALL_THRESHOLD, d_prime, label_precisions
from psl.evaluation.score_tables import ScoreTable, as_table
from psl.evaluation.student import CONFIDENCE

MIN_POSITIVES = 2
"""A class needs so many clips for an interval."""
_COUNTS_AT_A_TIME = 1 << 23
"""Of the table of draws (clips times resamples); 32 MB."""
_RANKED_CLIPS = 1 << 26
"""Of all classes whose rankings are in memory together; 256 MB."""


@dataclass(frozen=True)
class Resamples:
    """The metrics of each resample, B of them."""

    ap: np.ndarray
    """[B, C]; NaN where a resample has no positive clip of the class."""
    auc: np.ndarray
    """[B, C]; NaN also where it has no other clip."""
    recall: np.ndarray
    """[B, C] share of the positives scored at least 0.2."""
    lwlrap: np.ndarray
    """[B]; NaN for a resample without labels."""

    def scalars(self) -> dict[str, np.ndarray]:
        """[B] of each metric, by the name it is logged under; NaN where undefined."""
        auc = _means(self.auc)
        values = {
            "mAP": _means(self.ap),
            "AUC": auc,
            "d_prime": np.array([d_prime(float(value)) for value in auc]),
            "lwlrap": self.lwlrap,
            "recall_at_0.2": _means(self.recall),
        }
        return {name: np.where(np.isfinite(v), v, np.nan) for name, v in values.items()}


def _means(values: np.ndarray) -> np.ndarray:
    """Mean [B] over the classes [B, C] that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def draws(num_clips: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each clip is in each resample, float32 [num_clips, b], b at a time."""
    step = max(1, min(num_resamples, 256, _COUNTS_AT_A_TIME // num_clips))
    for start in range(0, num_resamples, step):
        numbers = range(start, min(start + step, num_resamples))
        table = np.empty((len(numbers), num_clips), np.float32)
        for place, number in enumerate(numbers):
            chosen = np.random.default_rng((seed, number)).integers(
                num_clips, size=num_clips
            )
            table[place] = np.bincount(chosen, minlength=num_clips)
        yield np.ascontiguousarray(table.T)


@dataclass(frozen=True)
class _Ranking:
    """One class' clips by score, cut where the thresholds of its positives are.

    Clips of one score are one threshold. A resample changes how often clips are there,
    not their order; so each class is sorted once.
    """

    order: Tensor
    """int32, clips by falling score, down to the last positive one."""
    cuts: Tensor
    """[2 G] int32: bags of ``order``: above the first threshold, at it, between it and
    the second, ..., at the last."""
    positives: Tensor
    """[P] int32, positive clips by falling score."""
    positive_cuts: Tensor
    """[G] int32: the bags of ``positives`` at each threshold."""
    num_recalled: int
    """Thresholds that are at least 0.2."""

    @staticmethod
    def of(positive: np.ndarray, scores: np.ndarray) -> _Ranking:
        """Of a class with a positive clip."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        begins = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        places = np.flatnonzero(positive[order])
        group = np.searchsorted(begins, places, side="right") - 1
        used, first = np.unique(group, return_index=True)
        start, stop = begins[used], np.append(begins[1:], len(order))[used]
        cuts = np.append(0, np.stack([start, stop], axis=1))[:-1]
        return _Ranking(
            order=_int32(order[: stop[-1]]),
            cuts=_int32(cuts),
            positives=_int32(order[places]),
            positive_cuts=_int32(first),
            num_recalled=int((ranked[start] >= RECALL_THRESHOLD).sum()),
        )

    def measure(self, table: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """AP, AUC and recall [b] of resamples ``table`` [R, b], R draws each."""
        counts = embedding_bag(self.order, table, self.cuts, mode="sum").numpy()
        own = embedding_bag(
            self.positives, table, self.positive_cuts, mode="sum"
        ).numpy()
        upto = np.cumsum(counts, axis=0, dtype=np.float64)
        true = np.cumsum(own, axis=0, dtype=np.float64)
        num_true, num_false = true[-1], len(table) - true[-1]
        with np.errstate(invalid="ignore"):  # 0 / 0 where a class was not drawn
            precision = true / np.maximum(upto[1::2], 1.0)
            ap = (own * precision).sum(axis=0) / num_true
            above = upto[::2] - (true - own)
            at = counts[1::2] - own
            below = num_false - above - at
            auc = (own * (below + at / 2)).sum(axis=0) / (num_true * num_false)
            recalled = true[self.num_recalled - 1] if self.num_recalled else 0.0
            return ap, auc, recalled / num_true


def _int32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))


def resample(
    targets: np.ndarray | Labels,
    scores: np.ndarray | ScoreTable,
    *,
    num_resamples: int,
    seed: int,
) -> Resamples:
    """The metrics of scores [R, C] against targets [R, C] in {0, 1} on other draws.

    Held in memory: the order of the clips for as many classes as 256 MB take, at least
    one, 32 MB of draws, and the results. Where the classes need more, the draws are
    made once for each group of them. 20,000 clips of 527 classes and 1000 resamples
    took 8 s of one core's time (2026-11-29, on a busy machine).
    """
    labels, table = Labels.of(targets), as_table(scores)
    num_clips, num_classes = labels.shape
    shape = (num_resamples, num_classes)
    ap, auc, recall = (np.full(shape, np.nan, np.float32) for _ in range(3))
    lwlrap = np.full(num_resamples, np.nan)
    precision = label_precisions(labels, table)
    of_clip = np.bincount(labels.clip, weights=precision, minlength=num_clips)
    labels_of_clip = np.bincount(labels.clip, minlength=num_clips)
    first = True
    for rankings in _groups(labels, table):
        done = 0
        for counts in draws(num_clips, num_resamples, seed):
            rows = slice(done, done + counts.shape[1])
            drawn = torch.from_numpy(counts)
            for c, ranking in rankings.items():
                ap[rows, c], auc[rows, c], recall[rows, c] = ranking.measure(drawn)
            if first:
                times = counts.astype(np.float64)
                with np.errstate(invalid="ignore"):
                    lwlrap[rows] = (of_clip @ times) / (labels_of_clip @ times)
            done = rows.stop
        first = False
        rankings.clear()  # before the next group is made
    return Resamples(ap=ap, auc=auc, recall=recall, lwlrap=lwlrap)


def _groups(labels: Labels, table: ScoreTable) -> Iterator[dict[int, _Ranking]]:
    """The rankings of the classes that have a clip, by class, as many as fit."""
    group: dict[int, _Ranking] = {}
    size = 0
    for c, column in enumerate(table.columns()):
        if not labels.num_positives[c]:
            continue
        ranking = _Ranking.of(labels.has(c), column)
        if group and size + len(ranking.order) > _RANKED_CLIPS:
            yield group
            group, size = {}, 0
        group[c] = ranking
        size += len(ranking.order)
    yield group


def interval(
    measured: float,
    resampled: np.ndarray,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float] | None:
    """Where 95 % of the resamples lie, moved so that their mean is ``measured``.

    A clip that is drawn twice has its double next to it in the ranking; so AP of
    resamples is a little higher than that of as many different clips, and only their
    spread is used. None where fewer than half of the resamples have a value.
    """
    known = resampled[~np.isnan(resampled)]
    if 2 * len(known) < max(len(resampled), 1) or not np.isfinite(measured):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) - known.mean() + measured
    return max(float(low), bounds[0]), min(float(high), bounds[1])
