"""A batch of examples, and what a teacher prepares of it.

Owns the tensors that pass from the loader to the training step. psl/data/examples.py
says which chunks they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from psl.data.page_locked import pin


@dataclasses.dataclass(frozen=True)
class Group:
    """Chunks of a batch that go through a model together."""

    positions: Tensor
    """[n] int64, which examples of the batch they are."""
    inputs: dict[str, Tensor]
    """What the model takes, by argument; n is their first size."""
    whole: bool
    """Whether they have the shape of whole chunks, which most chunks have."""


Prepared = list[list[Group] | None]
"""What Ensemble.prepare returns: what each member computed on the host, if anything."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Chunks of clips on the device."""

    pcm: Tensor
    """[B, N] int16, zero after each chunk's end."""
    num_samples: Tensor
    """[B] int64, samples before the padding."""
    targets: Tensor
    """[B, C] float32 in [0, 1]."""
    is_whole: bool = False
    """Whether the host knows that no chunk is padded; then nothing need ask for it."""
    prepared: Prepared | None = None
    """What an online teacher has computed of these chunks on the host."""

    @property
    def waveform(self) -> Tensor:
        """[B, N] float32 in [-1, 1)."""
        return to_waveform(self.pcm)

    def put(self, put: Callable[[Tensor], Tensor]) -> Batch:
        """The same where ``put`` puts its tensors, with what is prepared of it."""
        prepared = None if self.prepared is None else prepared_by(self.prepared, put)
        return dataclasses.replace(
            self,
            pcm=put(self.pcm),
            num_samples=put(self.num_samples),
            targets=put(self.targets),
            prepared=prepared,
        )


def pinned(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """A tensor that to_device need not copy first; for threads that read.

    For a GPU in memory that it can fetch from by itself (a copy, unless it is there
    already), else as it is. Not for what BatchMemory.take made: that goes there by
    BatchMemory.to_device, which knows when it may be written to again.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda" and not tensor.is_cuda:
        return pin(tensor)
    return tensor


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """A tensor on ``device``; the copy to a GPU does not wait for what runs there."""
    is_gpu = device.type == "cuda"  # a copy back must be waited for
    return pinned(values, device).to(device, non_blocking=is_gpu)


def prepared_by(prepared: Prepared, put: Callable[[Tensor], Tensor]) -> Prepared:
    """``prepared`` with each of its tensors where ``put`` puts it."""
    return [
        groups
        if groups is None
        else [
            dataclasses.replace(
                group,
                positions=put(group.positions),
                inputs={name: put(tensor) for name, tensor in group.inputs.items()},
            )
            for group in groups
        ]
        for groups in prepared
    ]


def to_waveform(pcm: Tensor) -> Tensor:
    """float32 in [-1, 1) from int16."""
    return pcm.to(torch.float32) / 32768.0


Array = TypeVar("Array", np.ndarray, Tensor)


def mix_targets(pseudo: Array, weak: Array, alpha: float) -> Array:
    """``alpha * pseudo + (1 - alpha) * weak``, [B, C] each (paper, section 2).

    alpha is 1 in the paper's table 2 and 0.5 in its table 3.
    """
    return alpha * pseudo + (1.0 - alpha) * weak
