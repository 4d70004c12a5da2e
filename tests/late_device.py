"""A device that copies late, in the place of a GPU: when it is told to, or lags behind.

It reads memory as that is when the copy is done, as a GPU does, whatever has become of
the batch that was there when the copy was asked for.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psl.data.page_locked import Mark


class Marker:
    """Behind a copy of a LateDevice."""

    def __init__(self, device: LateDevice) -> None:
        self._device, self.is_done = device, False

    def query(self) -> bool:
        """As torch.cuda.Event."""
        return self.is_done

    def synchronize(self) -> None:
        """As torch.cuda.Event: the device catches up, and counts that it had to."""
        with self._device.lock:
            if not self.is_done:
                self._device.num_waits += 1
            while not self.is_done:
                self._device.finish(1)


@dataclass
class _Queued:
    buffer: weakref.ref[np.ndarray]
    """The memory to copy from, which the queue does not keep."""
    offset: int
    there: Tensor
    shown: Tensor | None
    """What a program was let see already."""
    mark: Marker


class LateDevice:
    """A Copier (psl/data/page_locked.py) whose memory is the host's."""

    device = torch.device("cpu")

    def __init__(self, *, lag: float = math.inf, shows_early: bool = False) -> None:
        """It is ``lag`` copies behind, at most.

        With ``shows_early`` a program gets what it has copied at once, for it cannot
        queue its work here. ``num_wrong`` then counts the copies that, done late, would
        have had something else.
        """
        self.lock = threading.RLock()
        self.num_waits = self.num_wrong = self.num_lost = 0
        """Waits of the host; copies of other samples, and of memory given back."""
        self.copied: list[tuple[int, ...]] = []
        """Shapes."""
        self.threads: set[str] = set()
        """Names of those that asked for memory."""
        self.num_allocated = 0
        self._lag, self._shows_early = lag, shows_early
        self._queue: deque[_Queued] = deque()
        self._buffers: list[weakref.ref[np.ndarray]] = []

    def allocate(self, num_bytes: int) -> memoryview | None:
        """As Copier has it."""
        buffer = np.full(num_bytes, 0x55, np.uint8)
        with self.lock:
            self.num_allocated += 1
            self.threads.add(threading.current_thread().name)
            self._buffers.append(weakref.ref(buffer))
        return buffer.data

    def copy(self, tensor: Tensor) -> tuple[Tensor, Mark]:
        """As Copier has it."""
        there, mark = torch.full_like(tensor, 99), Marker(self)
        with self.lock:
            buffer, offset = self._place(tensor.data_ptr())
            shown = None
            if self._shows_early:
                there.copy_(tensor)
                shown = there.clone()
            self._queue.append(_Queued(buffer, offset, there, shown, mark))
            self.copied.append(tuple(tensor.shape))
            if len(self._queue) > self._lag:
                self.finish(1)
        return there, mark

    def finish(self, number: int) -> None:
        """Do the oldest copies now."""
        with self.lock:
            for _ in range(min(number, len(self._queue))):
                queued = self._queue.popleft()
                self._finish(queued)
                queued.mark.is_done = True

    @property
    def num_alive(self) -> int:
        """Pieces of memory that were not given back."""
        return sum(buffer() is not None for buffer in self._buffers)

    def _finish(self, queued: _Queued) -> None:
        buffer = queued.buffer()
        if buffer is None:
            self.num_lost += 1
            return
        data = buffer[queued.offset :][: queued.there.nbytes].copy()
        now = torch.from_numpy(data).view(queued.there.dtype).view(queued.there.shape)
        if queued.shown is None:
            queued.there.copy_(now)
        elif not torch.equal(queued.shown, now):
            self.num_wrong += 1

    def _place(self, address: int) -> tuple[weakref.ref[np.ndarray], int]:
        for reference in self._buffers:
            buffer = reference()
            if buffer is not None and 0 <= address - buffer.ctypes.data < buffer.size:
                return reference, address - buffer.ctypes.data
        raise AssertionError("a copy from memory that is not this device's")
