"""The PSL loss.

Owns what the student is asked for and how far off it is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mix_targets(pseudo: Tensor, weak: Tensor, alpha: float) -> Tensor:
    """``alpha * pseudo + (1 - alpha) * weak``, [B, C] each (paper, section 2).

    alpha is 1 in the paper's table 2 and 0.5 in its table 3.
    """
    return alpha * pseudo + (1.0 - alpha) * weak


def psl_loss(clip_probs: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities [B, C] and targets [B, C] in [0, 1].

    In float32 whatever the autocast type; logarithms are bounded at -100, gradients by
    torch at the probabilities' rounding error, so both stay finite at 0 and 1.
    """
    with torch.autocast(clip_probs.device.type, enabled=False):
        return functional.binary_cross_entropy(clip_probs.float(), targets.float())
