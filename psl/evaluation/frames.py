"""Where frames lie in a clip, in samples, however they were made.

Owns what holds for chunks, windows and frames of models alike; what frames a model has
is windows.py's.
"""

from __future__ import annotations

import numpy as np

from shards.format.chunking import Chunking


def covering_bounds(
    chunking: Chunking, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last sample [K] of what each chunk of a clip stands for.

    The last one stands for all that is left, too: a short rest has no chunk.
    """
    (number,) = chunking.num_chunks(np.array([num_samples]))
    starts, stops = chunking.bounds(np.arange(number), num_samples)
    return starts, np.append(stops[:-1], num_samples)


def frame_edges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """[T + 1] float64, in samples: where frames from ``starts`` to ``stops`` [T] part.

    Windows that overlap stand for what is nearest to their middles.
    """
    parts = starts[1:].astype(np.float64)
    if (stops[:-1] > starts[1:]).any():
        middles = (starts + stops) / 2
        parts = (middles[:-1] + middles[1:]) / 2
    return np.concatenate([[0.0], parts, stops[-1:]])
