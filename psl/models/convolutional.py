"""A tagger around an image classifier's convolutions, from transformers.

Owns what EfficientNet and ResNet have in common: log-mel in, frequency-averaged
embeddings, a head, and the message where transformers is not installed.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import psl.features._torchaudio  # noqa: F401  before transformers, which imports torchaudio
from psl.features.config import LogMelConfig
from psl.features.log_mel import float_samples, log_mel
from psl.features.masks import SpecAugment
from psl.models.config import Pooling
from psl.models.pooling import build_head

STRIDE = 32
"""STFT frames per output frame."""


class ConvTaggerConfig(Protocol):
    """What the configurations of these families share."""

    @property
    def pooling(self) -> Pooling:
        """How frames become a clip."""

    @property
    def dropout(self) -> float:
        """Probability of dropping an input of the last layer."""

    @property
    def front_end(self) -> LogMelConfig:
        """What features the model hears."""


class ConvTagger(nn.Module):
    """Waveforms to class probabilities, by way of ``backbone``."""

    def __init__(
        self,
        config: ConvTaggerConfig,
        backbone: nn.Module,
        *,
        num_features: int,
        num_classes: int,
        rounds_up: bool,
    ) -> None:
        """A tagger around ``backbone``.

        That maps [B, 1, F, T] -> [B, num_features, F / 32, T / 32]; ``rounds_up`` says
        whether T / 32 is rounded up or down.
        """
        super().__init__()
        self.config = config
        self.front_end = log_mel(config.front_end)
        self.spec_augment: nn.Module = SpecAugment(config.front_end)
        self.backbone = backbone
        self.head = build_head(
            config.pooling, num_features, num_classes, dropout=config.dropout
        )
        self._added = STRIDE - 1 if rounds_up else 0

    def forward(
        self, waveform: Tensor, num_samples: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """clip_probs [B, C] and frame_probs [B, T, C], float32 in [0, 1].

        waveform: [B, N] float in [-1, 1]. num_samples: [B] int, samples before the
        padding of each example (default: N); frames of padding do not count in
        clip_probs.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            log_mel = self.front_end(float_samples(waveform))
        features = at_least(self.spec_augment(log_mel, num_samples), STRIDE)
        maps = self.backbone(features).last_hidden_state
        embedding = maps.mean(dim=2).transpose(1, 2)
        num_frames = None if num_samples is None else self.num_frames(num_samples)
        return self.head(embedding, num_frames)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Output frames [B] that waveforms of ``num_samples`` [B] samples reach."""
        frames = self.config.front_end.num_frames(num_samples) + self._added
        return (frames // STRIDE).clamp(min=1)

    @property
    def frame_samples(self) -> int:
        """Samples from the start of one output frame to the start of the next."""
        return STRIDE * self.config.front_end.hop_length


def at_least(features: Tensor, num_frames: int) -> Tensor:
    """[B, 1, F, T] with the last frame repeated up to ``num_frames``."""
    missing = max(0, num_frames - features.shape[3])
    return nn.functional.pad(features, (0, missing, 0, 0), mode="replicate")


def transformers_module(family: str) -> Any:
    """The transformers library; ValueError if it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"model {family}: needs a package that is not installed ({error}); run "
            "pip install -U transformers"
        ) from None
