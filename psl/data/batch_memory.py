"""The memory that batches of audio are written to.

Owns its alignment and its reuse. Two things that NumPy's own memory gets wrong here:
batches that a thread makes and another drops are given back to the system and faulted
in again page by page (with 2 threads, half the time of reading WAV chunks,
2026-11-22), and where a copy starts is left to chance: on AMD Zen 3, one that starts 1
to 63 bytes further into its page than its source takes six times as long.
"""

from __future__ import annotations

import math
import mmap
import weakref

import numpy as np


class BatchMemory:
    """Makes int16 arrays on page boundaries, reusing memory that nobody uses."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def take(self, shape: tuple[int, int]) -> np.ndarray:
        """An uninitialised int16 array of ``shape``.

        Its memory is reused when the array and all views of it, also tensors, are gone.
        Threads may call this at the same time.
        """
        num_bytes = 2 * math.prod(shape)
        try:
            pages = self._free.pop()
        except IndexError:
            pages = _new_pages(num_bytes)
        if len(pages) != num_bytes:  # a batch of another shape
            pages = _new_pages(num_bytes)
        array = np.frombuffer(pages, np.int16)  # the base of all views of it
        weakref.finalize(array, self._free.append, pages).atexit = False
        return array.reshape(shape)


def _new_pages(num_bytes: int) -> mmap.mmap:
    # private, or a forked process would write into our batches
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
