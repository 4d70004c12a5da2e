"""What training does to the samples of its examples.

Owns window, level and shift in time of each example, a pure function of (run seed,
step, key of the clip, number of the chunk): it is the same on any rank, in any number
of processes, after any resume. Mixtures are psl/data/mixup.py's, masks
psl/data/spec_augment.py's, and stored views psl/data/views.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psl.data.config import TrainAugmentConfig
from psl.data.views import Augmentation, crop_starts
from shards.format.chunking import Chunking


@dataclass(frozen=True)
class WaveAugment:
    """Window, level and shift in time of the examples of a run."""

    moves: Augmentation
    """Gain and roll. Its views are optimizer steps, counted from 1."""
    crop: bool

    @staticmethod
    def from_config(
        config: TrainAugmentConfig, *, seed: int, sample_rate: int
    ) -> WaveAugment:
        """For a run of ``seed`` at ``sample_rate`` Hz."""
        roll = config.roll_seconds
        moves = Augmentation(
            seed=seed,
            gain_db=config.gain_db,
            roll_samples=None if roll is None else max(round(roll * sample_rate), 1),
            roll_fill=config.roll_fill or "wrap",
        )
        return WaveAugment(moves, crop=config.crop == "random")

    def bounds(
        self,
        chunking: Chunking,
        chunks: np.ndarray,
        counts: np.ndarray,
        *,
        keys: np.ndarray,
        step: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """First and past-the-last sample [B] of what ``step`` takes as ``chunks`` [B].

        ``counts`` [B] are the samples of the clips of ``keys`` [B] (bytes).
        """
        if not self.crop:
            return chunking.bounds(chunks, counts)
        room = np.maximum(counts - chunking.chunk_samples, 0)
        starts = crop_starts(room, self.moves.seed, step, keys=keys, chunks=chunks)
        return starts, np.minimum(starts + chunking.chunk_samples, counts)

    def apply(
        self,
        pcm: np.ndarray,
        lengths: np.ndarray,
        *,
        keys: np.ndarray,
        chunks: np.ndarray,
        step: int,
    ) -> None:
        """Change level and shift in time of ``pcm`` [B, N] int16, in place."""
        if self.moves.is_on:
            steps = np.full(len(chunks), step)
            self.moves.apply(pcm, lengths, keys=keys, chunks=chunks, views=steps)
