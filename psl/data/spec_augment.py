"""The sizes of a training run's masks (SpecAugment), from its configuration.

psl/features/masks.py owns what a mask does.
"""

from __future__ import annotations

import torch
from torch import nn

from psl.data.config import TrainAugmentConfig
from psl.features.masks import FrontEnd, SpecAugment


def install_masks(
    model: nn.Module,
    config: TrainAugmentConfig,
    front_end: FrontEnd,
    *,
    chunk_seconds: float,
) -> None:
    """Have ``model`` mask its features in training, if ``config`` asks for masks.

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
    assert hasattr(model, "spec_augment"), "a model without spec_augment"
    model.spec_augment = SpecAugment(
        front_end,
        time_masks=config.time_masks,
        max_frames=max_frames,
        frequency_masks=config.frequency_masks,
        max_bands=max_bands,
    )
