"""What makes a teacher's probabilities calibrated: a line or steps, class by class.

Owns the fit and the arithmetic, on NumPy arrays alone. Which labels it is fitted to is
psl/labelling/calibrate.py's, the file psl/labelling/calibration_file.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_VALUES = 0x3C00 + 1
"""Bit patterns of the float16 values from 0 to 1."""
LEAST, MOST = 2.0**-25, 1 - 2.0**-12
"""What 0 and 1 count as: half way to their neighbours in float16."""
SPREAD_A, SPREAD_B = 1.0, 5.0
"""Standard deviations of the normal prior around a = 1, b = 0. A teacher may be off by
several units of b, so this decides only where a class has very few positives."""
MAX_STEPS = 100
TOLERANCE = 1e-10
"""The fit ends when no step gains this much of the objective, relatively."""


@dataclass(frozen=True)
class Line:
    """sigmoid(a * logit + b) for one class."""

    a: float
    """0 or more, so that the order of scores never turns."""
    b: float
    how: str
    """platt or prior; kept where there was nothing to fit it to, with a = 1, b = 0."""


KEPT = Line(1.0, 0.0, "kept")


@dataclass(frozen=True)
class Steps:
    """Straight pieces over the logit for one class; constant beyond the ends."""

    probs: np.ndarray
    """[P] float64, float16 values that ascend."""
    values: np.ndarray
    """[P] float64 in [0, 1] that never fall: what each becomes."""

    how = "isotonic"

    def at(self, probs: np.ndarray) -> np.ndarray:
        """What ``probs`` become; invalid ones stay."""
        made = np.interp(logits_of(probs), logits_of(self.probs), self.values)
        return np.where((probs >= 0) & (probs <= 1), made, probs)


def logits_of(probs: np.ndarray) -> np.ndarray:
    """Finite logits, float64, of probabilities as float16."""
    clipped = np.clip(probs.astype(np.float16).astype(np.float64), LEAST, MOST)
    return np.log(clipped / (1 - clipped))


LOGITS = logits_of(np.arange(NUM_VALUES, dtype=np.uint16).view(np.float16))
"""[V] of each float16 value, ascending."""


def calibrated(probs: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Probabilities [..., C] float32 of ``probs`` [..., C], rounded to float16 first.

    So labels calibrated while they are made are those calibrated later. Classes with
    a = 1, b = 0 keep theirs to the bit. ``a`` and ``b`` are [C]. Invalid
    probabilities stay, for the codec to refuse.
    """
    rounded = probs.astype(np.float16)
    with np.errstate(invalid="ignore"):
        moved = _sigmoid(a * logits_of(rounded) + b)
    same = ((a == 1) & (b == 0)) | ~((probs >= 0) & (probs <= 1))
    return np.where(same, rounded, moved).astype(np.float32)


def fit_platt(positive: np.ndarray, negative: np.ndarray) -> Line:
    """The most probable line of a class from counts [V] of scores by float16 value.

    Maximum likelihood with a normal prior around the identity, by Newton's method with
    halved steps; if that has a < 0, the best line with a = 0. KEPT if there are no
    positives, no negatives, or only one score. Source: Platt, Advances in Large Margin
    Classifiers, 1999; the prior replaces his smoothed targets.
    """
    used = np.flatnonzero(positive + negative)
    if not positive.any() or not negative.any() or len(used) == 1:
        return KEPT
    x = LOGITS[used]
    counts = np.stack([positive, negative])[:, used].astype(np.float64)
    a, b = _newton(x, counts, free_a=True)
    if a < 0:
        a, b = _newton(x, counts, free_a=False)
    return Line(a, b, "platt")


def fit_isotonic(positive: np.ndarray, negative: np.ndarray) -> Steps | Line:
    """The steps of a class that never fall, from counts [V] of scores by float16 value.

    Least squares and maximum likelihood at once, by pooling adjacent violators. KEPT if
    there are no positives, no negatives, or only one score. Source: Barlow et al.,
    Statistical Inference under Order Restrictions, 1972, section 1.2; for calibration
    Zadrozny and Elkan, KDD 2002.
    """
    used = np.flatnonzero(positive + negative)
    if not positive.any() or not negative.any() or len(used) == 1:
        return KEPT
    blocks: list[tuple[int, int, int, int]] = []  # first and last value, true, all
    for value, true, false in zip(used, positive[used], negative[used], strict=True):
        block = int(value), int(value), int(true), int(true) + int(false)
        # shares compared as products of integers: exact
        while blocks and blocks[-1][2] * block[3] >= block[2] * blocks[-1][3]:
            first, _, above, count = blocks.pop()
            block = first, block[1], above + block[2], count + block[3]
        blocks.append(block)
    ends = {
        value: true / count for *ends, true, count in blocks for value in ends
    }  # a block of one value has one point
    points = np.array(list(ends), np.uint16).view(np.float16).astype(np.float64)
    return Steps(points, np.array(list(ends.values())))


def fit_prior(scores: np.ndarray, prior: float) -> Line:
    """The line with a = 1 by which the mean of the scores, counts [V], is ``prior``.

    KEPT without scores. ``prior`` is in (0, 1).
    """
    if not scores.any():
        return KEPT
    used = np.flatnonzero(scores)
    low, high = -60.0, 60.0
    for _ in range(100):
        b = (low + high) / 2
        mean = np.average(_sigmoid(LOGITS[used] + b), weights=scores[used])
        low, high = (b, high) if mean < prior else (low, b)
    return Line(1.0, (low + high) / 2, "prior")


def _newton(x: np.ndarray, counts: np.ndarray, *, free_a: bool) -> tuple[float, float]:
    """The best (a, b) for scores x [U], counted [2, U]; a stays 0 unless it is free."""
    inputs = np.stack([x, np.ones_like(x)])
    centre = np.array([1.0, 0.0])
    precision = np.diag([SPREAD_A**-2, SPREAD_B**-2])
    free = np.array([free_a, True])
    line = np.where(free, centre, 0.0)
    loss = _loss(line, inputs, counts, centre, precision)
    for _ in range(MAX_STEPS):
        probs = _sigmoid(line @ inputs)
        total = counts.sum(axis=0)
        gradient = inputs @ (total * probs - counts[0]) + precision @ (line - centre)
        hessian = (inputs * (total * probs * (1 - probs))) @ inputs.T + precision
        step = np.zeros(2)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        while (new := _loss(line - step, inputs, counts, centre, precision)) > loss:
            step /= 2
            if np.abs(step).max() < TOLERANCE:
                return float(line[0]), float(line[1])
        line, gain, loss = line - step, loss - new, new
        if gain <= TOLERANCE * max(1.0, loss):
            break
    return float(line[0]), float(line[1])


def _loss(
    line: np.ndarray,
    inputs: np.ndarray,
    counts: np.ndarray,
    centre: np.ndarray,
    precision: np.ndarray,
) -> float:
    z, away = line @ inputs, line - centre
    bce = counts[0] @ np.logaddexp(0, -z) + counts[1] @ np.logaddexp(0, z)
    return float(bce + away @ precision @ away / 2)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
