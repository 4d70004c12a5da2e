"""Expected copies of each clip in an epoch, from weak labels and from shares.

Owns the arithmetic of class balancing and of mixing datasets: pure, arrays in, arrays
out. How weights become an order is plan.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sampling_weights(
    num_chunks: np.ndarray,
    label_start: np.ndarray,
    label: np.ndarray,
    *,
    clips_per_folder: Sequence[int],
    balance: float | None,
    balance_limit: float,
    mix: Sequence[float] | None,
) -> np.ndarray | None:
    """[R] float64 weights for a Plan, or None where nothing is asked for.

    The chunks of an epoch stay as many as without weights. Without ``mix``, classes are
    counted and balanced over all folders; with it, in each folder by itself, which then
    gets its share of the epoch. Raises ValueError if the shares do not fit the folders.
    """
    if balance is None and mix is None:
        return None
    shares = None if mix is None else _check_mix(mix, clips_per_folder)
    sizes = [len(num_chunks)] if shares is None else clips_per_folder
    bounds = np.cumsum([0, *sizes])
    weights = np.ones(len(num_chunks))
    for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        chunks = num_chunks[start:stop]
        if balance is not None:
            weights[start:stop] = balanced_weights(
                chunks,
                label_start[start : stop + 1] - label_start[start],
                label[label_start[start] : label_start[stop]],
                temper=balance,
                limit=balance_limit,
            )
        if shares is not None:
            weights[start:stop] *= shares[number] * num_chunks.sum() / chunks.sum()
    return weights


def balanced_weights(
    num_chunks: np.ndarray,
    label_start: np.ndarray,
    label: np.ndarray,
    *,
    temper: float,
    limit: float,
) -> np.ndarray:
    """[R] float64 weights that make rare classes more frequent, 1 on average.

    Proportional to (sum over the clip's classes of 1 / clips of the class) ** temper.
    1 is the weight of PSLA (Gong et al. 2021, its gen_weight_file.py), and what drawing
    a class and then one of its clips comes to, as PANNs does (Kong et al. 2020); 0
    balances nothing. The average is over chunks. No clip weighs more than ``limit``
    (>= 1): what is cut off there goes to the others in proportion. A clip without
    labels weighs 1.
    """
    weights = np.ones(len(num_chunks))
    labelled = np.diff(label_start) > 0
    if not labelled.any():
        return weights
    rarity = 1.0 / np.bincount(label)[label]
    raw = np.add.reduceat(rarity, label_start[:-1][labelled]) ** temper
    weights[labelled] = _limit(raw, num_chunks[labelled], limit)
    return weights


def _limit(raw: np.ndarray, num_chunks: np.ndarray, limit: float) -> np.ndarray:
    """``raw`` times the factor with which, cut at ``limit``, it is 1 on average."""
    total = num_chunks.sum()
    free = np.ones(len(raw), bool)
    while True:
        left = total - limit * num_chunks[~free].sum()
        factor = left / (raw * num_chunks)[free].sum() if free.any() else 0.0
        over = free & (raw * factor > limit)
        if not over.any():
            return np.where(free, raw * factor, limit)
        free &= ~over


def _check_mix(mix: Sequence[float], clips_per_folder: Sequence[int]) -> np.ndarray:
    """``mix`` [F] with a sum of 1."""
    shares = np.asarray(mix, np.float64)
    if len(shares) != len(clips_per_folder):
        raise ValueError(
            f"mix = {list(mix)}: {len(shares)} shares for {len(clips_per_folder)} "
            "audio folders; give one for each, in their order"
        )
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise ValueError(f"mix = {list(mix)}; expected positive numbers")
    return shares / shares.sum()
