"""Views of a chunk: its waveform at another level, or moved in time.

Owns what a view sounds like, as a pure function of (seed, view, key of the clip, number
of the chunk): teacher and student, on any machine and in any batch, get the
same samples. View 0 is the chunk as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from psl.data.config import AugmentConfig, RollFill

_GAIN, _ROLL, _CHOICE, _CROP = range(4)  # what a random number is for


@dataclass(frozen=True)
class Augmentation:
    """AugmentConfig in samples, as label datasets record it."""

    seed: int
    gain_db: float | None
    roll_samples: int | None
    roll_fill: RollFill

    @staticmethod
    def from_config(config: AugmentConfig, sample_rate: int) -> Augmentation:
        """At ``sample_rate`` Hz."""
        roll = config.roll_seconds
        return Augmentation(
            seed=config.seed,
            gain_db=config.gain_db,
            roll_samples=None if roll is None else max(round(roll * sample_rate), 1),
            roll_fill=config.roll_fill,
        )

    @staticmethod
    def from_properties(properties: Mapping[str, Any]) -> Augmentation:
        """The augmentation that the properties of a label index record."""
        return Augmentation(
            seed=properties.get("augment_seed", 0),
            gain_db=properties.get("gain_db"),
            roll_samples=properties.get("roll_samples"),
            roll_fill=properties.get("roll_fill", "wrap"),
        )

    @property
    def properties(self) -> dict[str, Any]:
        """What an index records: all that decides what the views sound like."""
        found: dict[str, Any] = {"augment_seed": self.seed}
        if self.gain_db is not None:
            found["gain_db"] = self.gain_db
        if self.roll_samples is not None:
            found |= {"roll_samples": self.roll_samples, "roll_fill": self.roll_fill}
        return found

    @property
    def is_on(self) -> bool:
        """Whether views differ at all."""
        return self.gain_db is not None or self.roll_samples is not None

    def apply(
        self,
        pcm: np.ndarray,
        lengths: np.ndarray,
        *,
        keys: np.ndarray,
        chunks: np.ndarray,
        views: np.ndarray,
    ) -> None:
        """Turn chunks ``pcm`` [B, N] int16 into their views ``views`` [B], in place.

        Only the first ``lengths`` [B] samples of each are touched. ``keys`` [B] are the
        clips' keys (bytes), ``chunks`` [B] the numbers of the chunks in their clips.
        """
        if not views.any():
            return
        gains, rolls = self._draw(keys, chunks, views, lengths)
        for i in np.flatnonzero(views):
            wave = pcm[i, : lengths[i]]
            if rolls[i]:
                _roll(wave, int(rolls[i]), self.roll_fill)
            if self.gain_db is not None:
                _amplify(wave, gains[i])

    def _draw(
        self,
        keys: np.ndarray,
        chunks: np.ndarray,
        views: np.ndarray,
        lengths: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gain factors [B] float32, and samples to move by [B] int64."""
        words = (views, _numbers(keys), chunks)
        decibels = (self.gain_db or 0.0) * (2 * _uniform(self.seed, _GAIN, *words) - 1)
        most = np.minimum(self.roll_samples or 0, lengths // 2)
        steps = np.floor(_uniform(self.seed, _ROLL, *words) * (2 * most + 1))
        return (10 ** (decibels / 20)).astype(np.float32), steps.astype(np.int64) - most


def choose_views(
    num_views: int, rows: np.ndarray, chunks: np.ndarray, *, seed: int, epoch: int
) -> np.ndarray:
    """The view [B] int64 in which an epoch shows chunk ``chunks[i]`` of ``rows[i]``.

    A pure function, so it is the same in any batch, on any rank, after any resume.
    """
    drawn = _uniform(seed, _CHOICE, np.full(len(rows), epoch), rows, chunks)
    return (drawn * num_views).astype(np.int64)


def crop_starts(
    room: np.ndarray, seed: int, step: int, *, keys: np.ndarray, chunks: np.ndarray
) -> np.ndarray:
    """First samples of windows [B] int64, uniform from 0 to ``room`` [B].

    A pure function of seed, step and, as for views, ``keys`` and ``chunks`` [B].
    """
    steps = np.full(len(room), step)
    drawn = _uniform(seed, _CROP, steps, _numbers(keys), chunks)
    return np.floor(drawn * (room + 1)).astype(np.int64)


def _numbers(keys: np.ndarray) -> np.ndarray:
    """A number [B] uint64 for each clip of ``keys`` [B] bytes."""
    return np.array([crc32(key) for key in keys.tolist()], np.uint64)


def _roll(wave: np.ndarray, samples: int, fill: RollFill) -> None:
    """Move ``wave`` [N] int16 later by ``samples`` (earlier if negative), in place."""
    wave[:] = np.roll(wave, samples)
    if fill == "zero":
        wave[slice(0, samples) if samples > 0 else slice(samples, None)] = 0


def _amplify(wave: np.ndarray, factor: np.float32) -> None:
    """Multiply ``wave`` [N] int16, rounded (half to even) and clipped, in place."""
    scaled = np.multiply(wave, factor, dtype=np.float32)
    wave[:] = np.clip(np.rint(scaled, out=scaled), -32768, 32767)


def _uniform(seed: int, purpose: int, *words: np.ndarray) -> np.ndarray:
    """[B] float64 in [0, 1), a hash of the numbers >= 0 in ``words`` [B] each.

    SplitMix64's finalizer (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195)
    after each word. Not NumPy's generators: one for each chunk takes 20 times as long.
    """
    state = np.zeros(len(words[0]), np.uint64)
    fixed = [np.full(len(state), word) for word in (seed, purpose)]
    for word in (*fixed, *words):
        state = (state ^ word.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53
