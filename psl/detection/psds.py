"""The polyphonic sound detection score (PSDS), exact over all thresholds.

Defined by Bilen et al., "A framework for the robust evaluation of sound event
detection", ICASSP 2020, with the settings of DCASE's task 4; every score that occurs is
a threshold, as Ebbers et al. showed to be needed, "Threshold-independent evaluation of
sound event detection scores", ICASSP 2022.

A detection is a run of frames whose score is at least the threshold. It is relevant if
true events of its class cover enough of it (``dtc``), else a false positive. A true
event is found if relevant detections cover enough of it (``gtc``). A false positive
that events of another class cover enough (``cttc``) is a cross trigger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from psl.detection.events import ScoredClip

SECONDS_PER_HOUR = 3600.0
DECIMALS = 6
"""Times are compared after rounding to these, so that a cover that is just enough is
enough in floating point, too."""


@dataclass(frozen=True)
class PsdsSettings:
    """What counts as detected, and what a false alarm costs."""

    dtc: float
    """Detection tolerance criterion: the share of a detection to be covered."""
    gtc: float
    """Ground truth intersection criterion: the share of an event to be covered."""
    cttc: float | None = None
    """Cross-trigger tolerance criterion; None without cross triggers."""
    alpha_ct: float = 0.0
    """Cost of the mean rate of cross triggers, relative to false positives."""
    alpha_st: float = 1.0
    """Cost of the standard deviation over classes."""
    max_efpr: float = 100.0
    """Effective false positives per hour up to which the curve counts."""


PSDS1 = PsdsSettings(dtc=0.7, gtc=0.7)
"""DCASE's first scenario: events must be where they are."""
PSDS2 = PsdsSettings(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5)
"""DCASE's second scenario: classes must not be confused."""


@dataclass(frozen=True)
class Psds:
    """A score, and what it is made of."""

    value: float
    """In [0, 1]."""
    per_class: np.ndarray
    """[C] area under each class's own curve; NaN for a class without events."""
    efpr: np.ndarray
    """[P] effective false positives per hour, ascending."""
    etpr: np.ndarray
    """[P] effective true positive rate, a staircase over ``efpr``."""


def psds(clips: Iterable[ScoredClip], settings: PsdsSettings) -> Psds:
    """The score over all ``clips``; classes without an event are left out.

    True events of one class must not touch each other (``Events.joined``). Raises
    ValueError if there is no clip or no event, or a score is NaN.
    """
    clips = list(clips)
    if not clips:
        raise ValueError("no clips; expected scores of at least one")
    num_classes = clips[0].scores.shape[1]
    labels = np.concatenate([clip.truth.label for clip in clips]).astype(np.int64)
    lengths = [clip.truth.offset - clip.truth.onset for clip in clips]
    counts = np.bincount(labels, minlength=num_classes)
    seconds = np.bincount(labels, np.concatenate(lengths), num_classes)
    measured = np.flatnonzero(counts)
    if not len(measured):
        raise ValueError("no true events; expected at least one")
    deltas: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    for clip in clips:
        for label, found in _clip_deltas(clip, measured, seconds, settings):
            deltas[label].append(found)
    hours = sum(clip.edges[-1] - clip.edges[0] for clip in clips) / SECONDS_PER_HOUR
    curves = [
        _curve(np.concatenate(deltas[label]), counts[label], hours, settings)
        for label in measured
    ]
    areas = np.full(num_classes, np.nan)
    areas[measured] = [_area(*curve, settings.max_efpr) for curve in curves]
    efpr, etpr = _over_classes(curves, settings)
    return Psds(_area(efpr, etpr, settings.max_efpr), areas, efpr, etpr)


def _clip_deltas(
    clip: ScoredClip, measured: np.ndarray, seconds: np.ndarray, settings: PsdsSettings
) -> Iterable[tuple[int, np.ndarray]]:
    """For each class: what changes [n, 4] as the threshold falls to a score.

    Columns: the score; found events; false positives; cross triggers, each divided by
    the hours of its other class and the number of other classes.
    """
    if np.isnan(clip.scores).any():
        raise ValueError("a score is NaN; the model is broken")
    truth = clip.truth
    runs = _run_deltas(clip.scores)
    for label in measured:
        own = truth.label == label
        others = ~own & (seconds[truth.label] > 0)
        if own.any() or (settings.cttc is not None and others.any()):
            weights = SECONDS_PER_HOUR / seconds[truth.label[others]]
            weights = weights / max(len(measured) - 1, 1)
            yield label, _class_deltas(clip, label, own, others, weights, settings)
        else:
            changes = runs[:, label] != 0
            zeros = np.zeros(int(changes.sum()))
            columns = (clip.scores[changes, label], zeros, runs[changes, label], zeros)
            yield label, np.stack(columns, axis=1)


def _run_deltas(scores: np.ndarray) -> np.ndarray:
    """[T, C] by how many the runs change when frame t joins; equal ones from left."""
    edge = np.full((1, scores.shape[1]), -np.inf)
    before = np.concatenate([edge, scores[:-1]])
    after = np.concatenate([scores[1:], edge])
    return 1.0 - (before >= scores) - (after > scores)


def _class_deltas(
    clip: ScoredClip,
    label: int,
    own: np.ndarray,
    others: np.ndarray,
    weights: np.ndarray,
    settings: PsdsSettings,
) -> np.ndarray:
    """The rows of ``_clip_deltas`` of a class, by looking at every threshold."""
    scores, truth = clip.scores[:, label], clip.truth
    thresholds = np.unique(scores)[::-1]
    start, stop = _runs(scores >= thresholds[:, None], clip.edges)
    length, exists = stop - start, stop > start

    covered = _intersection(start, stop, truth.onset[own], truth.offset[own])
    needed = np.round(settings.dtc * length, DECIMALS)
    relevant = exists & (np.round(covered.sum(-1), DECIMALS) >= needed)
    found = np.round((covered * relevant[..., None]).sum(-2), DECIMALS)
    least = np.round(settings.gtc * (truth.offset - truth.onset)[own], DECIMALS)
    counts = [(found >= least).sum(-1), (exists & ~relevant).sum(-1)]

    triggers = np.zeros(len(thresholds))
    if settings.cttc is not None:
        needed = np.round(settings.cttc * length, DECIMALS)
        for other in np.unique(truth.label[others]):
            these = truth.label == other
            covered = _intersection(
                start, stop, truth.onset[these], truth.offset[these]
            )
            covered = np.round(covered.sum(-1) * ~relevant, DECIMALS)
            weight = weights[truth.label[others] == other][0]
            triggers += weight * (exists & (covered >= needed)).sum(-1)
    totals = np.stack([*counts, triggers], axis=1).astype(np.float64)
    changes = np.diff(totals, axis=0, prepend=0.0)
    return np.concatenate([thresholds[:, None], changes], axis=1)


def _runs(active: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop [M, K] in s of the runs of each row of ``active`` [M, T].

    Rows with fewer than K runs end in ones of no length.
    """
    padded = np.pad(active, ((0, 0), (1, 1))).astype(np.int8)
    change = np.diff(padded, axis=1)
    row, first = np.nonzero(change > 0)
    _, past = np.nonzero(change < 0)
    counts = np.bincount(row, minlength=len(active))
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.zeros((len(active), counts.max()))
    stop = np.zeros_like(start)
    start[row, column], stop[row, column] = edges[first], edges[past]
    return start, stop


def _intersection(
    start: np.ndarray, stop: np.ndarray, onset: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Seconds [M, K, E] that each run has in common with each event."""
    end = np.minimum(stop[..., None], offset)
    return np.maximum(end - np.maximum(start[..., None], onset), 0.0)


def _curve(
    deltas: np.ndarray, num_events: int, hours: float, settings: PsdsSettings
) -> tuple[np.ndarray, np.ndarray]:
    """A class's staircase: effective false positives per hour, true positive rate."""
    order = np.argsort(-deltas[:, 0], kind="stable")
    scores, totals = deltas[order, 0], deltas[order, 1:].cumsum(axis=0)
    last = np.append(scores[1:] != scores[:-1], True)  # of each threshold
    totals = np.concatenate([np.zeros((1, 3)), totals[last]])
    tpr = totals[:, 0] / num_events
    efpr = totals[:, 1] / hours + settings.alpha_ct * totals[:, 2]
    efpr = np.round(efpr, 9)  # what a run added and took away leaves rounding
    return _best_of_each(efpr, tpr, settings.max_efpr)


def _best_of_each(
    efpr: np.ndarray, tpr: np.ndarray, max_efpr: float
) -> tuple[np.ndarray, np.ndarray]:
    """The highest rate that is reached at or before each effective rate."""
    order = np.lexsort((tpr, efpr))
    efpr, tpr = efpr[order], np.maximum.accumulate(tpr[order])
    last = np.append(efpr[1:] != efpr[:-1], True) & (efpr <= max_efpr)
    return efpr[last], tpr[last]


def _over_classes(
    curves: list[tuple[np.ndarray, np.ndarray]], settings: PsdsSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The staircase over all classes, lowered by how much they differ."""
    efpr = np.unique(np.concatenate([x for x, _ in curves]))
    rates = [
        np.append(0.0, y)[np.searchsorted(x, efpr, side="right")] for x, y in curves
    ]
    etpr = np.mean(rates, axis=0) - settings.alpha_st * np.std(rates, axis=0)
    return efpr, np.maximum(etpr, 0.0)


def _area(efpr: np.ndarray, etpr: np.ndarray, max_efpr: float) -> float:
    """The area under a staircase up to ``max_efpr``, as a share of what is possible."""
    widths = np.diff(np.append(efpr, max_efpr))
    return float((etpr * widths).sum() / max_efpr)
