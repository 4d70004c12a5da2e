"""BatchNorm's running statistics: what they are called, and how a step moves them.

Owns the rule for a global batch that is seen in parts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

AVERAGED, COUNTER = ("running_mean", "running_var"), "num_batches_tracked"
"""Names of the buffers that a forward pass of BatchNorm changes."""


def is_averaged(name: str) -> bool:
    """Whether the buffer ``name`` is a running mean or variance."""
    return name.rpartition(".")[2] in AVERAGED


class NormStatistics:
    """The running statistics of a model, which move once in each optimizer step.

    A global batch is seen in parts, ``accumulation_steps`` on each rank, and BatchNorm
    normalises each by its own mean and variance. The rule: a step moves the running
    statistics by the mean, over all parts of all ranks, of the parts' means and of the
    parts' (unbiased) variances:

        running = (1 - momentum) * running + momentum * mean over parts

    So they depend on the number of parts, as the training loss does, and not on which
    rank or turn a part has: 4 ranks, or 2 with 2 parts each, or 1 with 4. Parts have
    equal sizes. The variance is that within a part, by which training normalises, not
    that of the whole batch. ``num_batches_tracked`` counts steps.

    This class does the part of one rank: forward passes in turn, each from where the
    step began. The mean over ranks of ``averaged`` is the caller's.
    """

    def __init__(self, model: nn.Module, *, num_parts: int, can_undo: bool) -> None:
        """With ``can_undo``, or several parts, a step keeps what it began with."""
        buffers = list(model.named_buffers())
        self.averaged = [buffer for name, buffer in buffers if is_averaged(name)]
        counters = [b for n, b in buffers if n.rpartition(".")[2] == COUNTER]
        self._all = self.averaged + counters
        self._num_parts = num_parts if self.averaged else 1
        self._keeps = can_undo or self._num_parts > 1
        self._before: list[Tensor] = []
        self._sums: list[Tensor] = []

    def begin_part(self, part: int) -> None:
        """Before the forward pass of part number ``part`` (from 0) of a step."""
        if part > 0:
            self._add_part()
            self.undo()
        elif self._keeps:
            self._before = [buffer.clone() for buffer in self._all]
            self._sums = [torch.zeros_like(buffer) for buffer in self.averaged]

    def end_parts(self) -> None:
        """After the last part of a step."""
        if self._num_parts > 1:
            self._add_part()
            torch._foreach_div_(self._sums, self._num_parts)
            torch._foreach_copy_(self.averaged, self._sums)

    def _add_part(self) -> None:
        if self._num_parts > 1:
            torch._foreach_add_(self._sums, self.averaged)

    def undo(self) -> None:
        """Make all as it was before the step, as far as that was kept."""
        if self._before:
            torch._foreach_copy_(self._all, self._before)
