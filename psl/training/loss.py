"""The PSL loss.

Owns what the student is asked for and how far off it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_PROB, LARGEST_PROB = 1e-30, 1.0 - 2.0**-24
"""Float32 can tell these from 0 and 1, and take their logarithms."""


def psl_loss(clip_probs: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities [B, C] and targets [B, C] in [0, 1].

    In float32 whatever the autocast type; finite, with finite gradients, for
    probabilities of 0 and 1. NaN gives NaN, where torch's own function fails an
    assertion (on a GPU one that takes the process with it).
    """
    with torch.autocast(clip_probs.device.type, enabled=False):
        probs = clip_probs.float().clamp(SMALLEST_PROB, LARGEST_PROB)
        targets = targets.float()
        log_likelihood = targets * probs.log() + (1.0 - targets) * (-probs).log1p()
        return -log_likelihood.mean()
