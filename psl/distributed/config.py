"""Words of a configuration for how processes compute, and how together."""

from __future__ import annotations

from typing import Literal

from psl.config import config

Precision = Literal["no", "bf16"]
Strategy = Literal["ddp", "zero1", "zero2", "zero3"]


@config
class ArithmeticConfig:
    """How an NVIDIA GPU computes float32; on a CPU none of it changes anything."""

    deterministic: bool = True
    """Of cuDNN, only the kernels that give the same bits each time, which an exact
    resume needs; false for the fastest, found by trying them on each new shape."""
    tf32: bool = True
    """Round the inputs of convolutions and matrix products to TF32, 10 bits after the
    point instead of 23, several times as fast; false for float32 throughout."""
