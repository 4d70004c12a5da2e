"""A moving average of a model's weights, beside the weights that are trained.

Owns its arithmetic. The average, not the trained weights, is then validated, saved as
the model and used; the trained weights are saved beside it (psl/checkpoint.py), so
that a run goes on bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

AVERAGED_BUFFERS = ("running_mean", "running_var")
"""BatchNorm's. They follow the trained weights, whose activations they describe, so
they are averaged as those are (timm's ModelEma does the same); buffers of other names
are copied."""


def decay_at(decay: float, step: int) -> float:
    """Share of the old average that optimizer step ``step`` (from 1) keeps.

    Less than ``decay`` in the first steps, so that the initial weights are soon
    forgotten: the rule of TensorFlow's ExponentialMovingAverage with num_updates.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """Keeps ``model``, in evaluation mode, the moving average of another model."""

    def __init__(self, model: nn.Module, trained: nn.Module, decay: float) -> None:
        """``model`` is a copy of ``trained``, or what a checkpoint has of the average.

        ``trained`` must hold its weights whole on every rank, and be prepared for
        training already, which may move buffers.
        """
        self.model = model.requires_grad_(False).eval()
        self._decay = decay
        averaged: dict[str, Tensor] = dict(self.model.named_parameters())
        sources: dict[str, Tensor] = dict(trained.named_parameters())
        self._copied: list[tuple[Tensor, Tensor]] = []
        buffers = dict(trained.named_buffers())
        for name, buffer in self.model.named_buffers():
            if name.rpartition(".")[2] in AVERAGED_BUFFERS:
                averaged[name], sources[name] = buffer, buffers[name]
            else:
                self._copied.append((buffer, buffers[name]))
        self._averages = list(averaged.values())
        self._sources = [sources[name] for name in averaged]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step ``step`` (from 1)."""
        share = 1 - decay_at(self._decay, step)
        torch._foreach_lerp_(self._averages, self._sources, share)
        for buffer, source in self._copied:
            buffer.copy_(source)
