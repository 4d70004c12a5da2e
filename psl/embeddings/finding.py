"""Nearest windows, and the windows to label next. Arithmetic on embeddings alone.

Vectors are read in blocks by torch; docs/embeddings.md says what that was measured
against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from psl.embeddings.store import Embeddings, blocks

_CANDIDATES = 20
"""Times the number of suggestions: the most uncertain windows that are considered."""
_TINY = 1e-12


def nearest(
    found: Embeddings, query: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [top] and cosines [top] of the windows most like one of ``query`` [Q, D].

    Highest first, the earlier of equal ones first. Exact.
    """
    query = query / np.maximum(np.linalg.norm(query, axis=1, keepdims=True), _TINY)
    queries = torch.from_numpy(query.astype(np.float32))
    cosine = np.zeros(len(found), np.float32)
    for rows, vectors in blocks(found):  # a narrow matrix product takes longer
        each = torch.stack([vectors.mv(one) for one in queries])
        cosine[rows] = each.amax(dim=0).numpy()
    cosine /= np.maximum(found.norms, _TINY)
    if len(cosine) > top:
        least = np.partition(cosine, len(cosine) - top)[len(cosine) - top]
        taken = np.flatnonzero(cosine >= least)
    else:
        taken = np.arange(len(cosine))
    best = taken[np.argsort(-cosine[taken], kind="stable")][:top]
    return best, np.clip(cosine[best], -1, 1)


@dataclass(frozen=True)
class Suggested:
    """Windows to label, in the order of their worth."""

    rows: np.ndarray
    """[K] int64."""
    guess: np.ndarray
    """[K] the class nearest to a probability of a half."""
    probability: np.ndarray
    """[K] of that class."""
    uncertainty: np.ndarray
    """[K] in [0, 1]: entropy of that decision, bits."""


def entropy(probs: np.ndarray) -> np.ndarray:
    """Bits of yes-no decisions with these probabilities."""
    p = np.clip(probs.astype(np.float64), _TINY, 1 - 1e-9)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def suggest(
    found: Embeddings,
    weight: np.ndarray,
    bias: np.ndarray,
    number: int,
    *,
    known: np.ndarray | None = None,
) -> Suggested:
    """``number`` windows that a model with this last layer is least sure of.

    They are unlike each other: of the most uncertain windows, each next one has the
    largest product of uncertainty and distance (1 - cosine) to all that were taken
    before, which is greedy k-center with weights.
    ``known`` [L] are rows that have labels: they are not suggested, and what is like
    them is worth little.
    """
    guess, probability = _decisions(found, weight, bias)
    uncertainty = entropy(probability)
    known = np.zeros(0, np.int64) if known is None else known
    worth = uncertainty.copy()
    worth[known] = -1
    count = min(len(worth) - len(known), _CANDIDATES * number)
    pool = np.argsort(-worth, kind="stable")[:count]
    unit = _unit(found, pool)
    distance = np.full(len(pool), 2.0, np.float32)
    for row in known:
        distance = np.minimum(distance, 1 - unit @ _unit(found, np.array([row]))[0])
    taken: list[int] = []
    while len(taken) < min(number, len(pool)):
        gain = uncertainty[pool] * np.maximum(distance, 0)
        gain[taken] = -1
        best = int(gain.argmax())
        taken.append(best)
        distance = np.minimum(distance, 1 - unit @ unit[best])
    rows = pool[taken]
    return Suggested(rows, guess[rows], probability[rows], uncertainty[rows])


def _decisions(
    found: Embeddings, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each window the class nearest to one half, and its probability."""
    guess = np.zeros(len(found), np.int64)
    probability = np.zeros(len(found), np.float32)
    columns = torch.from_numpy(np.ascontiguousarray(weight.T, np.float32))
    for rows, vectors in blocks(found):
        logits = (vectors @ columns).numpy() + bias
        nearest_half = np.abs(logits).argmin(axis=1)
        chosen = logits[np.arange(len(logits)), nearest_half]
        guess[rows] = nearest_half
        probability[rows] = 1 / (1 + np.exp(-np.clip(chosen, -60, 60)))
    return guess, probability


def _unit(found: Embeddings, rows: np.ndarray) -> np.ndarray:
    """[K, D] float32 of length 1."""
    vectors = found.vectors[rows].astype(np.float32)
    return vectors / np.maximum(found.norms[rows][:, None], _TINY)
