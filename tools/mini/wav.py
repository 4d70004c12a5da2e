"""WAV files by the standard library: the same bytes for the same samples, anywhere."""

from __future__ import annotations

import io
import wave

import numpy as np


def as_wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """A mono WAV file of int16 samples [N] at ``sample_rate`` Hz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()
