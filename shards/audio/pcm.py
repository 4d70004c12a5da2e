"""PCM values of any type -> float samples at full scale 1.

Owns what full scale an array has, and refuses what can be read in two ways.
"""

from __future__ import annotations

import numpy as np

from shards.errors import ShardError

MAX_PEAK = 100.0
"""Floats beyond this many times full scale are integers in disguise."""


def to_float(samples: np.ndarray) -> np.ndarray:
    """float32 of the same shape, full scale 1, from PCM of any common dtype.

    Raises ShardError for dtypes whose full scale is a guess: 64-bit integers, bool...
    """
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            return samples.astype(np.float32, copy=False)
    if kind not in "iu" or size > 4:
        raise ShardError(
            f"samples of type {samples.dtype}, whose full scale cannot be known; "
            "expected floats in [-1, 1] or integers of 8, 16 or 32 bits"
        )
    full_scale = 2.0 ** (8 * size - 1)
    offset = full_scale if kind == "u" else 0.0
    return ((samples - np.float64(offset)) / full_scale).astype(np.float32)


def check_full_scale(samples: np.ndarray) -> None:
    """ShardError if an array does not use its type as PCM does.

    Programs make arrays of a wide type that hold samples of a narrow one (a NumPy sum
    of int16 is int64, of floats that were never divided a float array of integers).
    Silence is never refused. Not for what a decoder returns: its file format says
    what full scale is.
    """
    if not samples.size:
        return
    if samples.dtype.kind == "f":
        _check_floats(samples)
    elif samples.dtype.kind in "iu" and samples.dtype.itemsize == 4:
        _check_32_bits(samples)
    elif samples.dtype.kind == "u":
        _check_middle(samples)


def check_32_bit_file(mono: np.ndarray, channels: int) -> None:
    """ShardError if the samples of a 32-bit PCM file are 16-bit values, not silence.

    ``mono`` [N] is their mean over ``channels``, at full scale 1. Programs write such a
    file from an int32 array; what was 24 bits before, as silence with dither, is a
    multiple of 256.
    """
    if not mono.size or not 0 < float(np.abs(mono).max()) <= 2.0**-16:
        return
    if (mono.astype(np.float64) * 2.0**31 * channels % 256).any():
        raise ShardError(
            "32-bit samples that never leave 16 bits, so that all would become 0; "
            "write the file again with 16 bits"
        )


def _check_floats(samples: np.ndarray) -> None:
    low, high = float(samples.min()), float(samples.max())
    peak = max(-low, high)
    if 1 < peak <= MAX_PEAK and not (samples % 1).any():
        raise ShardError(
            f"floats up to {peak:g} that are all whole numbers, expected [-1, 1]; "
            "divide by full scale"
        )


def _check_32_bits(samples: np.ndarray) -> None:
    """32 bits made of fewer are shifted up, so that the low bits are 0."""
    values = samples.astype(np.int64)
    if samples.dtype.kind == "u":
        _check_middle(samples)
        values -= 1 << 31
    peak = int(np.abs(values).max())
    for bits in (16, 24):
        fits = 0 < peak <= 1 << (bits - 1)
        if fits and (bits == 16 or (values & 0xFF).any()):
            raise ShardError(
                f"{samples.dtype} samples up to {peak}, which never leave {bits} bits; "
                f"full scale of {samples.dtype} is 2147483648: store them as int16, or "
                "as floats divided by their full scale"
            )


def _check_middle(samples: np.ndarray) -> None:
    """Unsigned PCM rests at the middle of its range; signed PCM read so does not."""
    quarter = 1 << (8 * samples.dtype.itemsize - 2)
    if not ((samples >= quarter) & (samples < 3 * quarter)).any():
        raise ShardError(
            f"{samples.dtype} samples that never come near {2 * quarter}, the middle, "
            "where unsigned PCM rests; store them as int16"
        )
