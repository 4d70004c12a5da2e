"""Segment scores of a model: its frame probabilities, pooled as they come.

Owns the scores of all ranks; segments.py has the segments and the measures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from psl.distributed import collectives
from psl.evaluation.segments import Segments
from shards.system.exits import JobError

Bounds = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Samples of a clip -> first and past-the-last sample [T] of each of its frames."""


class SegmentScores:
    """Frame probabilities of a rank's clips, pooled to segments as they come.

    A segment's score is the mean of the frames in it, weighted by the time that each
    has in common with it.
    """

    def __init__(
        self, segments: Segments, bounds: Bounds, device: torch.device
    ) -> None:
        self._segments, self._bounds = segments, bounds
        num_segments, num_classes = segments.truth.shape
        # a last column counts how often each segment was scored
        self._scores = torch.zeros(num_segments, num_classes + 1, device=device)
        self._weights = functools.lru_cache(maxsize=64)(self._compute_weights)

    def add(self, rows: np.ndarray, frame_probs: Tensor) -> None:
        """Pool frame_probs [B, T, C] of clips ``rows`` [B], all of one length."""
        found = np.searchsorted(self._segments.rows, rows)
        found = np.minimum(found, len(self._segments.rows) - 1)
        known = np.flatnonzero(self._segments.rows[found] == rows)
        if not len(known):
            return
        length = int(self._segments.num_samples[found[known[0]]])
        weights = self._weights(length).to(frame_probs)
        frames = frame_probs[torch.from_numpy(known).to(frame_probs.device)]
        pooled = torch.einsum("ts,btc->bsc", weights, frames[:, : len(weights)])
        num_segments = weights.shape[1]
        places = self._segments.first[found[known], None] + np.arange(num_segments)
        where = torch.from_numpy(places).to(self._scores.device)
        self._scores[where, :-1] = pooled
        self._scores[where, -1] += 1

    def _compute_weights(self, num_samples: int) -> Tensor:
        starts, stops = self._bounds(num_samples)
        return torch.from_numpy(self._segments.shares(num_samples, starts, stops))

    def sum_over_ranks(self) -> np.ndarray:
        """Scores of all segments [S, C] float32, on every rank. Collective.

        Raises JobError unless every segment was scored exactly once.
        """
        result = collectives.sum_over_ranks(self._scores).cpu().numpy()
        if not (result[:, -1] == 1).all():
            place = int(np.flatnonzero(result[:, -1] != 1)[0])
            raise JobError(f"segment {place} was scored {result[place, -1]:g} times")
        return result[:, :-1]
