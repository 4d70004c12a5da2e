"""The optimizer and its schedule.

Owns the learning rate, a pure function of the step that nothing else keeps or steps.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn, optim

from psl.config import STRICT


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """Adam; the defaults are the paper's."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up; cosine falls to 0 at the last step of all epochs."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on all parameters."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Largest gradient norm; null for no clipping."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Share of the old average that each step keeps in a moving average of the weights,
    which is then what is validated, saved and used; null for the weights themselves.
    Less in the first steps: (1 + step) / (10 + step). Not for strategy zero3."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> optim.Optimizer:
    """Adam over all parameters."""
    return optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``num_steps``."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Make the next step use ``value``."""
    for group in optimizer.param_groups:
        group["lr"] = value
