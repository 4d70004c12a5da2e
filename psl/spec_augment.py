"""Masks over the features of training examples (SpecAugment: Park et al. 2019, arXiv
1904.08779, section 2, without its time warping).

Owns their size, place and fill. They are drawn from torch's generator, which
psl/step.py seeds by (seed, step, rank, part) as for dropout.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from psl.train_augment import TrainAugmentConfig


class FrontEnd(Protocol):
    """What masks need to know of a front end's configuration."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def n_mels(self) -> int: ...

    def num_frames(self, num_samples: Tensor) -> Tensor: ...


class SpecAugment(nn.Module):
    """Hides stripes of features, differently in each example; only in training.

    What is hidden becomes the mean of the example's features. Not 0: that is a loud
    0 dB where the front end does not normalise, as upstream's does not.
    """

    def __init__(
        self, *, time_masks: int, max_frames: int, frequency_masks: int, max_bands: int
    ) -> None:
        """Masks of 0 to ``max_frames`` STFT frames and 0 to ``max_bands`` mel bands."""
        super().__init__()
        self.time_masks, self.max_frames = time_masks, max_frames
        self.frequency_masks, self.max_bands = frequency_masks, max_bands

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, 1, F, T], as they are or with stripes hidden."""
        if not self.training:
            return features
        batch, _, bands, frames = features.shape
        device = features.device
        times = _stripes(batch, frames, self.time_masks, self.max_frames, device)
        rows = _stripes(batch, bands, self.frequency_masks, self.max_bands, device)
        hidden = times[:, None, None, :] | rows[:, None, :, None]
        mean = features.mean(dim=(1, 2, 3), keepdim=True)
        return torch.where(hidden, mean, features)


def _stripes(
    batch: int, size: int, number: int, widest: int, device: torch.device
) -> Tensor:
    """[batch, size] bool: what ``number`` stripes of 0 to ``widest`` cover."""
    drawn = torch.rand(2, batch, number, 1, device=device)
    width = (drawn[0] * (min(widest, size) + 1)).floor()
    start = (drawn[1] * (size - width + 1)).floor()
    place = torch.arange(size, device=device)
    return ((start <= place) & (place < start + width)).any(dim=1)


def install_masks(
    model: nn.Module,
    config: TrainAugmentConfig,
    front_end: FrontEnd,
    *,
    chunk_seconds: float,
) -> None:
    """Have ``model`` mask its features in training as ``config`` says, if it does.

    Raises ValueError if a mask could hide a whole example, or nothing.
    """
    seconds, share = config.time_mask_seconds or 0.0, config.frequency_mask_share or 0.0
    if not config.time_masks and not config.frequency_masks:
        return
    if seconds >= chunk_seconds:
        raise ValueError(
            f"augment.time_mask_seconds {seconds} could hide a whole example of "
            f"{chunk_seconds} s; expected less"
        )
    rate = front_end.sample_rate
    lengths = torch.tensor([chunk_seconds, chunk_seconds + seconds]) * rate
    max_frames = int(front_end.num_frames(lengths.round().long()).diff())
    max_bands = round(share * front_end.n_mels)
    if config.time_masks and not max_frames:
        raise ValueError(
            f"augment.time_mask_seconds {seconds} is less than a frame; expected more"
        )
    if config.frequency_masks and not max_bands:
        raise ValueError(
            f"augment.frequency_mask_share {share} of {front_end.n_mels} mel bands is "
            "none; expected more"
        )
    if max_bands >= front_end.n_mels:
        raise ValueError(
            f"augment.frequency_mask_share {share} could hide all {front_end.n_mels} "
            "mel bands; expected less"
        )
    assert hasattr(model, "spec_augment"), "a family without a place for masks"
    model.spec_augment = SpecAugment(
        time_masks=config.time_masks,
        max_frames=max_frames,
        frequency_masks=config.frequency_masks,
        max_bands=max_bands,
    )
