"""How this process's GPU rounds, and whether it sums in one order.

The only place that sets torch.backends. On a CPU the settings change nothing; torch's
own switch for all devices (set_float32_matmul_precision) would, on some.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from psl.distributed.config import ArithmeticConfig


def choose_arithmetic(config: ArithmeticConfig) -> None:
    """Set how cuDNN and cuBLAS compute from here on, in all threads."""
    torch.backends.cudnn.deterministic = config.deterministic
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cuda.matmul.allow_tf32 = config.tf32


@contextlib.contextmanager
def without_trials() -> Iterator[None]:
    """No trying of kernels meanwhile: for clips, which may each have their own length.

    A trial costs more than it gains for a shape that comes once.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
