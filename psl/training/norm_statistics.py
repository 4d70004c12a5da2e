"""BatchNorm's running statistics: what they are called, and how a step moves them.

Owns the rule for a global batch that is seen in parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

AVERAGED, COUNTER = ("running_mean", "running_var"), "num_batches_tracked"
"""Names of the buffers that a forward pass of BatchNorm changes."""


def is_averaged(name: str) -> bool:
    """Whether the buffer ``name`` is a running mean or variance."""
    return name.rpartition(".")[2] in AVERAGED


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER


def _as_views_of_one(
    model: nn.Module, is_wanted: Callable[[str], bool]
) -> Tensor | None:
    """One tensor [n] that holds the buffers whose names are wanted; None if none are.

    The buffers of ``model`` become views of it, in their order.
    """
    found = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if is_wanted(name)
    ]
    if not found:
        return None
    whole = torch.cat([buffer.flatten() for _, _, buffer in found])
    parts = whole.split([buffer.numel() for _, _, buffer in found])
    for (module, name, buffer), part in zip(found, parts, strict=True):
        setattr(module, name, part.view_as(buffer))
    return whole


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

    The buffers of the model become views of one tensor, and the counters of another, so
    that each operation here is one, not one for each layer.
    """

    def __init__(self, model: nn.Module, *, num_parts: int, can_undo: bool) -> None:
        """With ``can_undo``, or several parts, a step keeps what it began with."""
        averaged = _as_views_of_one(model, is_averaged)
        counters = _as_views_of_one(model, _is_counter)
        self.averaged = [] if averaged is None else [averaged]
        """Empty, or one tensor [n] float32 of all running means and variances."""
        self._all = self.averaged + ([] if counters is None else [counters])
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

    def undo_if(self, bad: Tensor) -> None:
        """The same if ``bad`` [] is not 0, without asking the device whether it is."""
        if self._before:
            for now, before in zip(self._all, self._before, strict=True):
                now.copy_(torch.where(bad != 0, before, now))
