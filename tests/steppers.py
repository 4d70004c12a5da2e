"""A Stepper for tests, without the configuration of a run."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import nn, optim

from psl.training.step import Stepper


def make_stepper(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: optim.Optimizer,
    **changed: Any,
) -> Stepper:
    """One that clips and skips bad steps, but for what is ``changed``."""
    options: dict[str, Any] = {
        "seed": 1,
        "precision": "no",
        "clip_grad_norm": 1.0,
        "accumulation_steps": 1,
        "nonfinite": "skip",
        "compile_model": False,
        **changed,
    }
    return Stepper(accelerator, model, optimizer, **options)
