"""EfficientNet B0 and B2 as audio taggers (Tan & Le 2019, arXiv 1905.11946).

The convolutions are transformers'. Padding does not count in the mean over frames, but
squeeze-and-excitation sees it: its channel weights are means over all of a chunk.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from psl.config import STRICT
from psl.frontend import LogMelConfig
from psl.models.convolutional import ConvTagger, transformers_module
from psl.models.pooling import Pooling

_SCALES = {"efficientnet_b0": (1.0, 1.0), "efficientnet_b2": (1.1, 1.2)}
"""Factors on width and depth: arXiv 1905.11946 and its published code."""
# transformers' 0.99 is Keras' 0.99, which is 0.01 in torch's words: with it the
# statistics in evaluation are those of the last batch
_NORM_MOMENTUM = 0.1


@dataclass(frozen=True, config=STRICT)
class EfficientNetB0Config:
    """4.68 million parameters at 527 classes."""

    name: Literal["efficientnet_b0"] = "efficientnet_b0"
    width: float = Field(default=1.0, gt=0)
    """Factor on B0's channels."""
    depth: float = Field(default=1.0, gt=0)
    """Factor on B0's blocks in each stage."""
    pooling: Pooling = "mean"
    """Of frames: mean of their probabilities, or PSLA's attention (4 heads)."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Probability of dropping an input of the last layer."""
    drop_connect: float = Field(default=0.2, ge=0, lt=1)
    """Of dropping a value of a residual branch, in the last block; rises to it."""
    front_end: LogMelConfig = LogMelConfig()


@dataclass(frozen=True, config=STRICT)
class EfficientNetB2Config:
    """8.44 million parameters at 527 classes."""

    name: Literal["efficientnet_b2"] = "efficientnet_b2"
    width: float = Field(default=1.0, gt=0)
    """Factor on B2's channels."""
    depth: float = Field(default=1.0, gt=0)
    """Factor on B2's blocks in each stage."""
    pooling: Pooling = "mean"
    """Of frames: mean of their probabilities, or PSLA's attention (4 heads)."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Probability of dropping an input of the last layer."""
    drop_connect: float = Field(default=0.2, ge=0, lt=1)
    """Of dropping a value of a residual branch, in the last block; rises to it."""
    front_end: LogMelConfig = LogMelConfig()


def build(
    config: EfficientNetB0Config | EfficientNetB2Config, num_classes: int
) -> ConvTagger:
    """With fresh weights; ValueError if transformers is not installed."""
    transformers = transformers_module(config.name)
    width, depth = _SCALES[config.name]
    settings = transformers.EfficientNetConfig(
        num_channels=1,
        width_coefficient=width * config.width,
        depth_coefficient=depth * config.depth,
        hidden_dim=_round_channels(1280 * width * config.width),
        drop_connect_rate=config.drop_connect,
        batch_norm_momentum=_NORM_MOMENTUM,
    )
    backbone: nn.Module = transformers.EfficientNetModel(settings)
    _initialise(backbone)
    return ConvTagger(
        config,
        backbone,
        num_features=settings.hidden_dim,
        num_classes=num_classes,
        rounds_up=False,
    )


def _initialise(backbone: nn.Module) -> None:
    """Convolutions by He's rule (fan out), BatchNorm with a gain of 1.

    transformers draws both around 0 with a deviation of 0.02. With such gains the
    values of a fresh network die out from block to block: from 0.01 after the stem to
    1e-30 at the end (measured), far below BatchNorm's eps of 0.001.
    """
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d):
            outputs = module.out_channels // module.groups
            fan_out = module.weight[0, 0].numel() * outputs
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that loses at most a tenth, as transformers rounds."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
