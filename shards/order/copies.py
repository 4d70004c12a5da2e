"""How often each clip is in the sequence of an epoch, when clips have weights.

Owns the rounding of weights to whole copies and how heavily repeated shards are split.
Works in whole multiples of 1 / ONE, so that every machine computes the same. Does not
choose weights (balance.py) or places (plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ONE = 1 << 20
"""A weight of 1. Weights below half of 2**-20 round to 0."""
NEIGHBOURS = 4096
"""Clips whose fractions are shuffled together; they fit a core's fast memory."""


def fixed_point(weights: np.ndarray) -> np.ndarray:
    """[R] int64 multiples of 1 / ONE."""
    return np.rint(weights * ONE).astype(np.int64)


def draw_copies(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whole copies [V] int64 with expectation ``weights`` [V] int64 / ONE.

    Each weight is rounded up or down at random, and so is their sum: the fractions are
    laid end to end and cut by a comb of step 1 with a random start (systematic
    sampling). Rounded one by one, an epoch's length would be random. Neighbours of
    ``NEIGHBOURS`` are in random order, so that no two always exclude each other; an
    order of all would be no better for that, and takes three times as long.
    """
    copies = weights // ONE
    fraction = (weights % ONE).astype(np.int32)  # half the memory to jump about in
    order = np.flatnonzero(fraction).astype(np.int32)
    tiled = len(order) // NEIGHBOURS * NEIGHBOURS
    tiles = order[:tiled].reshape(-1, NEIGHBOURS)
    rng.permuted(tiles, axis=1, out=tiles)
    rng.shuffle(order[tiled:])
    ends = (np.cumsum(fraction[order], dtype=np.int64) + rng.integers(ONE)) // ONE
    copies[order] += np.diff(ends, prepend=0)
    return copies


@dataclass(frozen=True)
class Units:
    """What the sequence of every epoch is made of: shards, or passes over one."""

    num_entries: np.ndarray
    """[U] clips of each unit."""
    row: np.ndarray
    """[V] row in the index of each entry; V is the sum of num_entries."""
    num_chunks: np.ndarray
    """[V] chunks of that clip."""
    weights: np.ndarray | None = None
    """[R] int64, expected copies of each row in an epoch, times ONE; None for one."""
    passes: np.ndarray | None = None
    """[V] passes over the entry's shard; None for one over each."""
    number: np.ndarray | None = None
    """[V] which of them the entry belongs to; None where passes is."""

    def counts(self, rng: np.random.Generator) -> np.ndarray:
        """[V] chunks of each entry in one epoch, copies included.

        The copies of a clip are shared out evenly over the passes.
        """
        if self.weights is None:
            return self.num_chunks
        copies = draw_copies(self.weights, rng)
        if self.passes is None or self.number is None:
            return self.num_chunks * copies
        shared = copies[self.row] * self.number
        shared += rng.integers(ONE, size=len(copies))[self.row]
        until = (shared + copies[self.row]) // self.passes
        return self.num_chunks * (until - shared // self.passes)

    @staticmethod
    def whole(
        num_chunks: np.ndarray,
        clips_per_shard: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> Units:
        """One pass over every shard; ``weights`` [R] int64 times ONE."""
        row = np.arange(len(num_chunks))
        return Units(clips_per_shard, row, num_chunks, weights)

    @staticmethod
    def repeated(
        num_chunks: np.ndarray, clips_per_shard: np.ndarray, weights: np.ndarray
    ) -> Units:
        """A shard whose chunks are used P times on average makes P passes.

        So a unit is about as long as a shard, and a window holds about as many clips
        as without weights, instead of few clips many times. ``weights`` as in whole.
        """
        first = np.concatenate([[0], np.cumsum(clips_per_shard)])
        used = np.concatenate([[0], np.cumsum(num_chunks * weights)])[first]
        there = np.concatenate([[0], np.cumsum(num_chunks)])[first]
        mean = np.diff(used) / np.maximum(np.diff(there), 1) / ONE
        passes = np.maximum(np.rint(mean), 1).astype(np.int64)
        if passes.max() == 1:
            return Units.whole(num_chunks, clips_per_shard, weights)

        shard = np.repeat(np.arange(len(passes)), passes)
        number = np.arange(len(shard)) - np.repeat(np.cumsum(passes) - passes, passes)
        num_entries = clips_per_shard[shard]
        begin = np.cumsum(num_entries) - num_entries
        row = np.arange(num_entries.sum())
        row += np.repeat(first[shard] - begin, num_entries)
        return Units(
            num_entries,
            row,
            num_chunks[row],
            weights,
            passes=np.repeat(passes[shard], num_entries),
            number=np.repeat(number, num_entries),
        )
