"""SpecAugment: masks over the features of training examples.

Park et al. 2019, arXiv 1904.08779, section 2, without its time warping. Owns where
masks lie and what they hold. They are drawn from torch's generator, which
psl/training/step.py seeds by (seed, step, rank, part) as for dropout.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class FrontEnd(Protocol):
    """What masks need to know of a front end's configuration."""

    @property
    def sample_rate(self) -> int:
        """Rate of the audio, Hz."""

    @property
    def n_mels(self) -> int:
        """Mel bands (F)."""

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Frames of waveforms of ``num_samples`` samples."""


class SpecAugment(nn.Module):
    """Hides stripes of features, differently in each example; only in training.

    What is hidden becomes the mean of the example's features. Not 0: that is a loud
    0 dB where the front end does not normalise, as upstream's does not. Padding is
    neither hidden nor part of the mean.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        time_masks: int = 0,
        max_frames: int = 0,
        frequency_masks: int = 0,
        max_bands: int = 0,
    ) -> None:
        """Masks of 0 to ``max_frames`` STFT frames and 0 to ``max_bands`` mel bands."""
        super().__init__()
        self.front_end = front_end
        self.time_masks, self.max_frames = time_masks, max_frames
        self.frequency_masks, self.max_bands = frequency_masks, max_bands

    def forward(self, features: Tensor, num_samples: Tensor | None) -> Tensor:
        """Features [B, 1, F, T], as they are or with stripes hidden.

        num_samples: [B] int, samples before the padding of each; None for all.
        """
        if not self.training or not (self.time_masks or self.frequency_masks):
            return features
        batch, _, bands, frames = features.shape
        if num_samples is None:
            num_frames = torch.full((batch,), frames, device=features.device)
        else:
            num_frames = self.front_end.num_frames(num_samples).clamp(max=frames)
        num_bands = torch.full_like(num_frames, bands)
        times = _stripes(num_frames, frames, self.time_masks, self.max_frames)
        rows = _stripes(num_bands, bands, self.frequency_masks, self.max_bands)
        real = counted(num_frames, frames)[:, None, None, :]
        hidden = (times[:, None, None, :] | rows[:, None, :, None]) & real
        total = (features * real).sum(dim=(1, 2, 3))
        mean = total / (num_frames * bands)
        return torch.where(hidden, mean[:, None, None, None], features)


def _stripes(sizes: Tensor, longest: int, number: int, widest: int) -> Tensor:
    """What ``number`` stripes of 0 to ``widest`` cover: [B, longest] bool.

    All of them lie within the first ``sizes`` [B] positions.
    """
    drawn = torch.rand(2, len(sizes), number, 1, device=sizes.device)
    size = sizes[:, None, None]
    width = (drawn[0] * (size.clamp(max=widest) + 1)).floor()
    start = (drawn[1] * (size - width + 1)).floor()
    position = torch.arange(longest, device=sizes.device)
    return ((start <= position) & (position < start + width)).any(dim=1)


def counted(num_frames: Tensor, total: int) -> Tensor:
    """[B, total] bool, whether a frame is one of the first ``num_frames`` [B]."""
    frame = torch.arange(total, device=num_frames.device)
    return frame < num_frames.unsqueeze(1)
