"""From embeddings of frames to probabilities: the heads that families share.

Owns what a clip probability is, and that frames of padding have no part in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features.masks import counted
from psl.models.config import Pooling

NUM_ATTENTION_HEADS = 4
"""As PSLA has (Gong et al. 2021, arXiv 2102.01243, section III-D)."""
_SMALLEST_ATTENTION = 1e-7


def decision_mean(frame_probs: Tensor, num_frames: Tensor | None) -> Tensor:
    """[B, C] mean over the first ``num_frames`` [B] frames of [B, T, C]; None for T."""
    if num_frames is None:
        return frame_probs.mean(dim=1)
    weight = counted(num_frames, frame_probs.shape[1]) / num_frames.unsqueeze(1)
    return (frame_probs * weight.unsqueeze(2)).sum(dim=1)


def build_head(
    pooling: Pooling, num_features: int, num_classes: int, *, dropout: float
) -> nn.Module:
    """Embeddings [B, T, D] and num_frames -> (clip_probs, frame_probs)."""
    if pooling == "mean":
        return MeanHead(num_features, num_classes, dropout)
    return AttentionHead(num_features, num_classes, dropout)


class MeanHead(nn.Module):
    """One linear layer per frame, sigmoid, mean over frames (decision mean)."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_features, num_classes)

    def forward(
        self, embedding: Tensor, num_frames: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """clip_probs [B, C] and frame_probs [B, T, C], float32."""
        frame_probs = self.linear(self.dropout(embedding)).float().sigmoid()
        return decision_mean(frame_probs, num_frames), frame_probs


class AttentionHead(nn.Module):
    """Each class has weights over the frames, in several heads that are mixed.

    As in PSLA, sigmoid attention normalised over frames. The shares of the heads are a
    softmax, where PSLA learns free numbers: those could leave [0, 1].
    """

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        outputs = NUM_ATTENTION_HEADS * num_classes
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Linear(num_features, outputs)
        self.linear = nn.Linear(num_features, outputs)
        self.shares = nn.Parameter(torch.zeros(NUM_ATTENTION_HEADS))

    def forward(
        self, embedding: Tensor, num_frames: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """clip_probs [B, C] and frame_probs [B, T, C], float32.

        clip_probs are means over frames with the attention's weights, so they are not
        those of frame_probs.
        """
        embedding = self.dropout(embedding)
        by_head = (*embedding.shape[:2], NUM_ATTENTION_HEADS, -1)
        probs = self.linear(embedding).float().sigmoid().view(by_head)
        weight = self.attention(embedding).float().sigmoid().view(by_head)
        weight = weight.clamp(min=_SMALLEST_ATTENTION)
        if num_frames is not None:
            weight = weight * counted(num_frames, weight.shape[1])[:, :, None, None]
        weight = weight / weight.sum(dim=1, keepdim=True)
        shares = self.shares.float().softmax(dim=0)[:, None]
        clip_probs = ((probs * weight).sum(dim=1) * shares).sum(dim=1)
        # rounding may take a mean of ones past one
        return clip_probs.clamp(max=1.0), (probs * shares).sum(dim=2)
