"""What came of a step, and when the host gets to know it.

Owns the reading of a step's few numbers from the device. On the CPU they are read at
once. On a GPU the host would have to wait until the GPU has done all that was queued,
and the GPU would then wait for the host; so they are read one step later, when the host
has queued that step as well.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOSS, NORM, STOP, OWN_LOSS = range(4)
"""The places of a step's numbers [4] float32: mean loss over the global batch, norm of
the gradient, share of the ranks that were asked to stop, mean loss of this rank."""

Read = Callable[[], list[float]]
"""Waits for numbers that are under way, and gives them."""


@dataclass(frozen=True)
class Outcome:
    """What came of a step; the same on all ranks except for ``own_loss``."""

    step: int
    loss: float
    """Mean over the global batch."""
    own_loss: float
    """Mean over this rank's share of it."""
    problem: str | None
    """Why nothing was updated; None if all was well."""
    stop: bool
    """Whether any rank was asked to stop."""


def is_read_late(device: torch.device) -> bool:
    """Whether the host learns of a step on ``device`` only after the next one."""
    return device.type == "cuda"


def is_bad(numbers: Tensor) -> Tensor:
    """[] float32: 1 if loss or gradient of ``numbers`` is not finite, else 0.

    On the device, for what must not wait for the host to decide.
    """
    return (~numbers[: NORM + 1].isfinite()).any().to(torch.float32)


def problem_of(loss: float, gradient_norm: float) -> str | None:
    """What is not finite; None if nothing."""
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(gradient_norm):
        return f"gradient norm is {gradient_norm}, not finite"
    return None


def copied_to_host(numbers: Tensor) -> Read:
    """Start to copy ``numbers`` to the host, behind all that is queued so far."""
    if not numbers.is_cuda:
        copy = numbers.clone()
        return lambda: copy.tolist()
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return host.tolist()

    return read


class Verdicts:
    """The numbers of steps that are queued, until the host reads them."""

    def __init__(self, copy: Callable[[Tensor], Read] = copied_to_host) -> None:
        """``copy`` starts a copy. Its argument may be overwritten by later steps."""
        self._copy = copy
        self._under_way: deque[tuple[int, Read]] = deque()

    def put(self, step: int, numbers: Tensor) -> None:
        """``numbers`` [4] of ``step`` are being worked out. Does not wait."""
        self._under_way.append((step, self._copy(numbers)))

    def take(self, *, leave: int = 0) -> list[Outcome]:
        """All but the newest ``leave``, in order; waits for them."""
        found: list[Outcome] = []
        while len(self._under_way) > leave:
            step, read = self._under_way.popleft()
            loss, norm, stop, own_loss = read()
            found.append(
                Outcome(step, loss, own_loss, problem_of(loss, norm), stop > 0)
            )
        return found
