"""What a tally of pseudo labels says of their quality, as plain numbers.

Owns the definitions of every number in report.json. Reads no data (tally.py)
and prints nothing (report.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from psl.label_report.score_counts import (
    VALUES,
    ScoreCounts,
    at_least,
    calibration_error,
    rank_precision,
    reliability,
)
from psl.label_report.tally import ABSENT, LEVELS, PRESENT, Tally

NUM_BINS = 10
"""Of the calibration curve."""
THRESHOLDS = np.arange(5, 100, 5) / 100
"""Of the curve of recovered weak labels."""
QUANTILES = (0.5, 0.9, 0.99, 0.999)


def distribution(tally: Tally) -> dict[str, Any]:
    """How the labels of all chunks are spread; needs no events."""
    counts = tally.chunks.counts.sum(axis=(0, 1), dtype=np.int64)
    total, num_chunks = int(counts.sum()), tally.num_chunks
    reached = np.searchsorted(
        np.cumsum(counts), [np.ceil(q * total) for q in QUANTILES]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -(VALUES * np.log2(VALUES) + (1 - VALUES) * np.log2(1 - VALUES))
    bits = np.nan_to_num(bits)
    above = at_least(counts, np.array(LEVELS))
    return {
        "num_labels": total,
        "histogram": reliability(counts, np.zeros_like(counts), 2 * NUM_BINS)["count"],
        "mean": ratio(counts @ VALUES, total),
        "quantiles": {
            f"{q:g}": float(VALUES[v]) if total else None
            for q, v in zip(QUANTILES, reached, strict=True)
        },
        "entropy_bits_per_label": ratio(counts @ bits, total),
        "entropy_bits_per_chunk": ratio(counts @ bits, num_chunks),
        "labels_per_chunk": {
            f"{level:g}": ratio(count, num_chunks)
            for level, count in zip(LEVELS, above, strict=True)
        },
        "chunks_without_label": {
            f"{level:g}": ratio(count, num_chunks)
            for level, count in tally.num_bare_chunks.items()
        },
    }


def weak_agreement(tally: Tally) -> dict[str, Any] | None:
    """AP of the labels against the weak labels of their clips; None without any."""
    ap = {
        by: weak_precision(counts)
        for by, counts in (("max", tally.clip_max), ("mean", tally.clip_mean))
    }
    groups = tally.clip_max.counts.sum(axis=2, dtype=np.int64)
    weak = groups[3:].sum(axis=0)
    counted = weak > 0
    if not counted.any():
        return None
    num_clips = groups.sum(axis=0)
    return {
        "num_weak_labels": int(weak.sum()),
        "num_classes": int(counted.sum()),
        "mean_ap": {by: macro(values) for by, values in ap.items()},
        "mean_ap_by_chance": macro((weak / num_clips)[counted]),
        "mean_label_of_weakly_labelled": mean_score(tally.chunks.counts[3:]),
        "mean_label_of_others": mean_score(tally.chunks.counts[:3]),
    }


def weak_precision(counts: ScoreCounts) -> np.ndarray:
    """[C] AP against weak labels."""
    return rank_precision(counts.counts[3:].sum(axis=0), counts.counts[:3].sum(axis=0))


def chunk_precision(tally: Tally) -> dict[str, np.ndarray]:
    """[C] AP against the true events of every chunk, of labels and what to compare.

    ``pseudo``: the labels; ``weak``: weak labels copied to every chunk of their clip;
    ``both``: mean of the two (alpha = 0.5); ``complete``: what weak labels without
    mistakes would get; ``chance``: any order that knows nothing, in expectation. NaN
    for a class that is in no chunk.
    """
    counts = tally.chunks.counts
    true, false = counts[[PRESENT, 3 + PRESENT]], counts[[ABSENT, 3 + ABSENT]]
    num_true, num_false = (c.sum(axis=2, dtype=np.int64) for c in (true, false))
    present, absent = num_true.sum(axis=0), num_false.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        complete = present / tally.num_chunks_of_true_clips
        chance = present / (present + absent)
    in_none = present == 0
    return {
        "pseudo": rank_precision(true.sum(axis=0), false.sum(axis=0)),
        "weak": rank_precision(num_true.T, num_false.T),
        # the mean of the two puts everything that is weakly labelled first
        "both": rank_precision(
            np.concatenate(true, axis=1), np.concatenate(false, axis=1)
        ),
        "complete": np.where(in_none, np.nan, complete),
        "chance": np.where(in_none, np.nan, chance),
    }


def recovery(tally: Tally, threshold: float) -> dict[str, Any]:
    """Which weak labels are missing, and how many of them the labels recover.

    Of all (clip, class) pairs without a weak label, those with a true event are
    missing; a pair is recovered if the label of any chunk reaches the threshold.
    """
    counts = tally.clip_max.counts
    missing, rightly_none = counts[PRESENT], counts[ABSENT]
    pairs = counts.sum(axis=(1, 2), dtype=np.int64)
    num_missing, num_others = int(pairs[PRESENT]), int(pairs[ABSENT])
    thresholds = np.array([threshold, *THRESHOLDS])
    hits = at_least(missing.sum(axis=0, dtype=np.int64), thresholds)
    alarms = at_least(rightly_none.sum(axis=0, dtype=np.int64), thresholds)
    with np.errstate(invalid="ignore"):
        precision = hits / (hits + alarms)
        recall = hits / np.float64(num_missing)
        f1 = 2 * hits / (hits + alarms + num_missing)
    points = [
        {
            "threshold": float(t),
            "recovered": int(h),
            "false_alarms": int(a),
            "precision": finite(p),
            "recall": finite(r),
            "f1": finite(f),
        }
        for t, h, a, p, r, f in zip(
            thresholds, hits, alarms, precision, recall, f1, strict=True
        )
    ]
    return {
        "true_pairs": int(pairs[PRESENT] + pairs[3 + PRESENT]),
        "missing": num_missing,
        "weak_without_event": int(pairs[3 + ABSENT]),
        "precision_by_chance": ratio(num_missing, num_missing + num_others),
        "mean_ap": macro(rank_precision(missing, rightly_none)),
        "at_threshold": points[0],
        "curve": points[1:],
    }


def localisation(tally: Tally) -> dict[str, Any]:
    """Whether the labels know in which chunks a weakly labelled class is."""
    number = tally.num_localised
    means = (tally.localised / number).tolist() if number else [None] * 3
    return {
        "clip_class_pairs": number,
        "present_above_absent": means[0],
        "present_above_absent_of_weak": 0.5 if number else None,
        "mean_label_present": means[1],
        "mean_label_absent": means[2],
    }


def calibration(tally: Tally) -> dict[str, Any]:
    """Labels as probabilities: of those near p, is a share p true?"""
    counts = tally.chunks.counts.sum(axis=1, dtype=np.int64)
    true, false = (
        counts[PRESENT] + counts[3 + PRESENT],
        counts[ABSENT] + counts[3 + ABSENT],
    )
    curve = reliability(true, false, NUM_BINS)
    tail = {name: values[1:] for name, values in curve.items()}
    return {
        "bins": [
            {
                "from": b / NUM_BINS,
                "to": (b + 1) / NUM_BINS,
                "count": int(curve["count"][b]),
                "mean_label": finite(curve["mean_score"][b]),
                "share_true": finite(curve["share_true"][b]),
            }
            for b in range(NUM_BINS)
        ],
        "expected_error": finite(calibration_error(curve)),
        "expected_error_above_first_bin": finite(calibration_error(tail)),
        "mean_label": ratio((true + false) @ VALUES, (true + false).sum()),
        "share_true": ratio(true.sum(), (true + false).sum()),
    }


def per_class(tally: Tally, threshold: float) -> dict[str, np.ndarray]:
    """Columns [C] of the per-class table; NaN where there is nothing to measure."""
    clips = tally.clip_max.counts.sum(axis=2, dtype=np.int64)
    chunks = tally.chunks.counts.sum(axis=2, dtype=np.int64)
    seen = tally.chunks.counts.sum(axis=0, dtype=np.int64)
    columns = {
        "weak_clips": clips[3:].sum(axis=0),
        "mean_label": over(seen @ VALUES, seen.sum(axis=1)),
        "weak_ap_max": weak_precision(tally.clip_max),
        "weak_ap_mean": weak_precision(tally.clip_mean),
    }
    if not tally.has_truth:
        return columns
    missing, recovered = clips[PRESENT], _reached(tally, PRESENT, threshold)
    alarms = _reached(tally, ABSENT, threshold)
    ap = chunk_precision(tally)
    return columns | {
        "true_clips": missing + clips[3 + PRESENT],
        "missing_weak_labels": missing,
        "recovered": recovered,
        "false_alarms": alarms,
        "recovery_recall": over(recovered, missing),
        "recovery_precision": over(recovered, recovered + alarms),
        "true_chunks": chunks[PRESENT] + chunks[3 + PRESENT],
        **{f"chunk_ap_{name}": values for name, values in ap.items()},
    }


def _reached(tally: Tally, group: int, threshold: float) -> np.ndarray:
    """[C] clips of a group in which a chunk's label reaches ``threshold``."""
    return at_least(tally.clip_max.counts[group], np.array([threshold]))[:, 0]


def over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole, NaN where there is nothing."""
    return np.divide(part, whole, np.full(len(whole), np.nan), where=whole > 0)


def mean_score(counts: np.ndarray) -> float | None:
    """Mean of the scores counted in [..., V]."""
    by_value = counts.reshape(-1, counts.shape[-1]).sum(axis=0, dtype=np.int64)
    return ratio(by_value @ VALUES, by_value.sum())


def macro(values: np.ndarray) -> float | None:
    """Mean over the classes that have a value; None if none has."""
    used = values[~np.isnan(values)]
    return float(used.mean()) if len(used) else None


def ratio(part: Any, whole: Any) -> float | None:
    """Part / whole, None where there is nothing."""
    return float(part) / float(whole) if whole else None


def finite(value: Any) -> float | None:
    """A number for JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None
