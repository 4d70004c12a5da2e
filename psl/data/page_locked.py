"""Page-locked memory of the host, from which a GPU fetches by itself.

Owns how it is got, what happens where the system refuses it, and copies from it that
the host does not wait for. When memory may be used again is psl/data/batch_memory.py's.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

_refusals = itertools.count()
"""Counts them for the whole process: one is told of."""


class Mark(Protocol):
    """A place behind a copy in a device's queue."""

    def query(self) -> bool:
        """Whether the device has come by, so that the copy is done."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Copier(Protocol):
    """Copies to a device that queues them."""

    @property
    def device(self) -> torch.device:
        """Where copies go to."""

    def allocate(self, num_bytes: int) -> memoryview | None:
        """Memory to copy from, at the start of a page; None if it is refused."""

    def copy(self, tensor: Tensor) -> tuple[Tensor, Mark]:
        """``tensor`` on the device, once that has come to the mark."""


@dataclass(frozen=True)
class GpuCopier:
    """Copies to a GPU, in the stream that is current in the thread that asks."""

    device: torch.device

    def allocate(self, num_bytes: int) -> memoryview | None:
        """As Copier has it. PyTorch keeps what is freed of it for the next who asks."""
        try:
            locked = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            _tell(error)
            return None
        return locked.numpy().data

    def copy(self, tensor: Tensor) -> tuple[Tensor, Mark]:
        """As Copier has it."""
        with torch.cuda.device(self.device):
            there = tensor.to(self.device, non_blocking=True)
            event = torch.cuda.Event(blocking=True)  # who waits leaves the core
            event.record(torch.cuda.current_stream())
        return there, _GpuMark(event, self.device)


@dataclass(frozen=True)
class _GpuMark:
    event: torch.cuda.Event
    device: torch.device

    # In a thread that has not used the GPU yet, CUDA might begin on the first one.

    def query(self) -> bool:
        with torch.cuda.device(self.device):
            return self.event.query()

    def synchronize(self) -> None:
        with torch.cuda.device(self.device):
            self.event.synchronize()


def copier_for(device: torch.device) -> Copier | None:
    """What copies to ``device``; None for the CPU, for which nothing is copied."""
    return GpuCopier(device) if device.type == "cuda" else None


def pin(tensor: Tensor) -> Tensor:
    """``tensor`` in page-locked memory: a copy, unless it is there already.

    As it is where the system refuses.
    """
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        _tell(error)
        return tensor


def _tell(error: RuntimeError) -> None:
    if next(_refusals) == 0:
        reason = str(error).partition("\n")[0]
        _log.warning(
            "no page-locked memory (%s): batches go to the GPU from ordinary memory, "
            "and copies wait for what is queued there; allow more locked memory "
            "(ulimit -l, the container's limit), or lower loader.prefetch",
            reason,
        )
