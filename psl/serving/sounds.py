"""Samples -> what a page plays and draws: a WAV file, and a picture of its spectrum."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import soundfile

ROWS, MAX_COLUMNS = 96, 640
_LOWEST_HZ = 60.0
_RANGE_DB = 70.0


def wav(samples: np.ndarray, rate: int) -> bytes:
    """[N] int16 as a WAV file."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, "PCM_16", format="WAV")
    return stream.getvalue()


def spectrogram(samples: np.ndarray, rate: int) -> dict[str, Any]:
    """Bytes [rows, columns], 255 loudest, low frequencies last, of [N] int16.

    Rows are mel bands of the short-time spectrum; the darkest is 70 dB below the
    loudest.
    """
    size = 1024 if rate >= 16000 else 512
    hop = max(size // 4, -(-len(samples) // MAX_COLUMNS))
    padded = np.pad(samples.astype(np.float32), (size // 2, size))
    starts = np.arange(0, max(1, len(samples)), hop)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = _mel_edges(rate, size, power.shape[1])
    totals = np.concatenate([np.zeros((len(power), 1)), power.cumsum(axis=1)], axis=1)
    bands = (totals[:, edges[1:]] - totals[:, edges[:-1]]) / np.diff(edges)
    level = 10 * np.log10(bands + 1e-3)
    shown = np.clip((level - level.max() + _RANGE_DB) / _RANGE_DB, 0, 1)
    image = (255 * shown.T[::-1]).astype(np.uint8)
    return {
        "rows": image.shape[0],
        "columns": image.shape[1],
        "data": base64.b64encode(image.tobytes()).decode(),
    }


def _mel_edges(rate: int, size: int, num_bins: int) -> np.ndarray:
    """[ROWS + 1] first bins of bands of about equal width in mel, none empty."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (_LOWEST_HZ, rate / 2))
    hertz = 700 * (10 ** (np.linspace(low, high, ROWS + 1) / 2595) - 1)
    edges = np.round(hertz * size / rate).astype(int)
    for i in range(1, len(edges)):
        edges[i] = max(edges[i], edges[i - 1] + 1)
    edges = edges[edges < num_bins]
    return np.append(edges, num_bins)
