"""ResNet-50 as an audio tagger (He et al. 2015, arXiv 1512.03385).

The convolutions are transformers'.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from psl.config import STRICT
from psl.features.log_mel import LogMelConfig
from psl.models.convolutional import ConvTagger, transformers_module
from psl.models.pooling import Pooling

_STEM_CHANNELS = 64
_STAGES = ((256, 3), (512, 4), (1024, 6), (2048, 3))
"""Channels and blocks of each stage: arXiv 1512.03385, table 1."""


@dataclass(frozen=True, config=STRICT)
class ResNet50Config:
    """24.6 million parameters at 527 classes."""

    name: Literal["resnet50"] = "resnet50"
    width: float = Field(default=1.0, gt=0)
    """Factor on all channels."""
    depth: float = Field(default=1.0, gt=0)
    """Factor on the blocks of each stage."""
    pooling: Pooling = "mean"
    """Of frames: mean of their probabilities, or PSLA's attention (4 heads)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping an input of the last layer."""
    front_end: LogMelConfig = LogMelConfig()


def build(config: ResNet50Config, num_classes: int) -> ConvTagger:
    """With fresh weights; ValueError if transformers is not installed."""
    transformers = transformers_module(config.name)
    channels = [max(8, round(c * config.width / 8) * 8) for c, _ in _STAGES]
    settings = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=max(8, round(_STEM_CHANNELS * config.width)),
        hidden_sizes=channels,
        depths=[max(1, round(blocks * config.depth)) for _, blocks in _STAGES],
        layer_type="bottleneck",
    )
    backbone: nn.Module = transformers.ResNetModel(settings)
    return ConvTagger(
        config,
        backbone,
        num_features=channels[-1],
        num_classes=num_classes,
        rounds_up=True,
    )
