"""What training does to the samples of its examples.

Owns window, level and shift in time of each example, a pure function of (run seed,
step, key of the clip, number of the chunk): it is the same on any rank, in any number
of processes, after any resume. Mixtures are psl/data/mixup.py's, masks
psl/data/spec_augment.py's, and stored views psl/data/views.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from psl.config import STRICT
from psl.data.views import Augmentation, RollFill, crop_starts
from shards.format.chunking import Chunking
from shards.format.meta import MAX_GAIN_DB

MixupLabels = Literal["mixed", "heard"]


@config_dataclass(frozen=True, config=STRICT)
class TrainAugmentConfig:
    """What is done to the examples of training; nothing by default."""

    gain_db: float | None = Field(default=None, gt=0, le=MAX_GAIN_DB)
    """Gains are drawn evenly between minus this and this, dB; null for none. What
    leaves the range of int16 is clipped."""
    roll_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Examples are moved in time by up to this, s, either way, but by no more than half
    of the audio they hold; null for not at all."""
    roll_fill: RollFill | None = None
    """With roll_seconds, what comes in at one end: wrap for what left at the other,
    zero for silence; null for wrap."""
    crop: Literal["random"] | None = None
    """random takes each example of data.chunk_seconds from anywhere in its clip, not
    with stored labels; null for the clip's chunks."""
    mixup_alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Waveforms and targets of two examples are mixed, with a share of the first drawn
    from Beta(this, this): 1 for any share alike, less for mostly one of the two; null
    for no mixtures."""
    mixup_probability: float | None = Field(default=None, gt=0, le=1)
    """With mixup_alpha, the probability that an example is mixed; null for 1."""
    mixup_labels: MixupLabels | None = None
    """With mixup_alpha and data.labels=online, what the targets of a mixture are: mixed
    from the teacher's of the two examples, or heard by the teacher in the mixture; null
    for mixed."""
    time_masks: int = Field(default=0, ge=0)
    """Masks in time over the features of each example (SpecAugment)."""
    time_mask_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Longest time mask, s; lengths are drawn evenly from 0 to this."""
    frequency_masks: int = Field(default=0, ge=0)
    """Masks in frequency over the features of each example (SpecAugment)."""
    frequency_mask_share: float | None = Field(default=None, gt=0, lt=1)
    """Widest frequency mask, as a share of the mel bands; widths are drawn evenly from
    0 to this."""

    def __post_init__(self) -> None:
        for needed, *others in _TOGETHER:
            for name in others:
                if getattr(self, name) is not None and not getattr(self, needed):
                    raise ValueError(f"{name} does nothing without {needed}; set both")
        for number, size in _MASKS:
            if getattr(self, number) and getattr(self, size) is None:
                raise ValueError(f"{number} need {size}; set both")


_MASKS = (
    ("time_masks", "time_mask_seconds"),
    ("frequency_masks", "frequency_mask_share"),
)
_TOGETHER = (
    ("roll_seconds", "roll_fill"),
    ("mixup_alpha", "mixup_probability", "mixup_labels"),
    *_MASKS,
)
"""A field, and those that do nothing without it."""


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
