"""The memory that batches are written to, and from which a GPU fetches them.

Owns its alignment and its reuse. Two things that NumPy's own memory gets wrong here:
batches that a thread makes and another drops are given back to the system and faulted
in again page by page (with 2 threads, half the time of reading WAV chunks,
2026-11-22), and where a copy starts is left to chance: on AMD Zen 3, one that starts 1
to 63 bytes further into its page than its source takes six times as long.

For a GPU the memory is page-locked, so that a batch is not copied within the host. The
copy to the GPU is done later than it is asked for, maybe long after the batch is gone:
its memory is used again only when the mark behind the copy says that it is done.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from psl.data.batch import to_device
from psl.data.page_locked import Copier, Mark, copier_for

MAX_WAITING = 8
"""Pieces of memory of a size that wait for their copies, before take() waits for the
oldest where it could take new memory. As many as loader.prefetch: a GPU that is so far
behind would not begin sooner with what is read now."""


@dataclass(eq=False)
class _Block:
    """A piece of memory, which is reused as a whole."""

    data: memoryview
    address: int
    copied: Mark | None = None
    """Behind the last copy from it; None if there was none since take()."""

    @property
    def is_copied(self) -> bool:
        return self.copied is None or self.copied.query()


@dataclass
class _Pool:
    """The memory of one size that no array uses."""

    free: deque[_Block] = field(default_factory=deque)
    waiting: deque[_Block] = field(default_factory=deque)
    """For their copies; the oldest first."""


class BatchMemory:
    """Makes arrays on page boundaries, reusing memory that nobody uses.

    Sizes of memory are powers of two, so that batches of like shapes share it. Of each
    there is as much as arrays were in use at a time, and MAX_WAITING pieces. Threads
    may call everything at the same time; there is no lock, as a process may fork, and
    an array may end and give back its memory, in the midst of any line.
    """

    def __init__(self, copier: Copier | None = None) -> None:
        """``copier`` copies to the device; None if nothing is copied from here."""
        self._copier = copier
        self._pools: dict[int, _Pool] = {}
        self._used: dict[int, _Block] = {}
        """By address."""
        # not before the last array is gone, as each keeps this object
        weakref.finalize(self, _wait_for_copies, self._pools).atexit = False

    @staticmethod
    def for_device(device: torch.device) -> BatchMemory:
        """For batches that go to ``device``."""
        return BatchMemory(copier_for(device))

    def take(self, shape: tuple[int, int], dtype: DTypeLike = np.int16) -> np.ndarray:
        """An uninitialised array of ``shape``.

        Its memory is reused when the array and all views of it, also tensors, are gone,
        and what to_device() was asked to copy of them is copied.
        """
        count = math.prod(shape)
        num_bytes = max(mmap.PAGESIZE, count * np.dtype(dtype).itemsize)
        block = self._take_block(1 << (num_bytes - 1).bit_length())
        block.copied = None
        self._used[block.address] = block
        array = np.frombuffer(block.data, dtype, count)  # the base of all views of it
        weakref.finalize(array, self._take_back, block).atexit = False
        return array.reshape(shape)

    def to_device(self, values: np.ndarray | Tensor, device: torch.device) -> Tensor:
        """``values`` on ``device``; a copy to a GPU does not wait for what runs there.

        Of what take() made, and views of it, nothing is copied within the host. The
        copies of one array must be asked for in one stream.
        """
        tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        if self._copier is None or self._copier.device.type != device.type:
            return to_device(tensor, device)
        block = self._block_of(tensor)
        if block is None:
            return to_device(tensor, device)
        copy, block.copied = self._copier.copy(tensor)
        return copy

    def _block_of(self, tensor: Tensor) -> _Block | None:
        address = tensor.data_ptr()
        for block in list(self._used.values()):
            if 0 <= address - block.address < len(block.data):
                return block
        return None

    def _take_block(self, num_bytes: int) -> _Block:
        pool = self._pools.get(num_bytes)
        if pool is None:
            pool = self._pools.setdefault(num_bytes, _Pool())
        try:  # IndexError: there is none left, maybe as other threads were faster
            while pool.waiting and pool.waiting[0].is_copied:
                block = pool.waiting.popleft()
                (pool.free if block.is_copied else pool.waiting).append(block)
            if pool.free:
                return pool.free.pop()  # the newest, maybe in the processor's cache
            if len(pool.waiting) >= MAX_WAITING:
                return _copied(pool.waiting.popleft())
        except IndexError:
            pass
        return self._new_block(num_bytes)

    def _new_block(self, num_bytes: int) -> _Block:
        data = None if self._copier is None else self._copier.allocate(num_bytes)
        if data is None:
            # private, or a forked process would write into our batches
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            data = memoryview(mmap.mmap(-1, num_bytes, flags=flags))
        return _Block(data, np.frombuffer(data, np.uint8).ctypes.data)

    def _take_back(self, block: _Block) -> None:
        """When its array is gone; in any thread, and in the midst of anything."""
        del self._used[block.address]  # first, as the next may have it then
        pool = self._pools[len(block.data)]
        (pool.free if block.copied is None else pool.waiting).append(block)


def _copied(block: _Block) -> _Block:
    """The same, when its copy is done."""
    if block.copied is not None:
        block.copied.synchronize()
    return block


def _wait_for_copies(pools: dict[int, _Pool]) -> None:
    """Before memory is given back: what is copied would else be what comes there."""
    for pool in pools.values():
        for block in pool.waiting:
            _copied(block)
