"""EfficientNet B0 and B2 as audio taggers (Tan & Le 2019, arXiv 1905.11946).

The convolutions are transformers'. Padding does not count in the mean over frames, but
squeeze-and-excitation sees it: its channel weights are means over all of a chunk.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from psl.config import STRICT
from psl.features.log_mel import LogMelConfig
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
    """Probability that an example loses the last block's residual branch; it rises
    from block to block to this."""
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
    """Probability that an example loses the last block's residual branch; it rises
    from block to block to this."""
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
    backbone: Any = transformers.EfficientNetModel(settings)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d):
            module.reset_parameters()  # docs/models.md says why
    for block in backbone.encoder.blocks:
        block.projection.dropout = _DropBranch(block.projection.dropout.p)
    return ConvTagger(
        config,
        backbone,
        num_features=settings.hidden_dim,
        num_classes=num_classes,
        rounds_up=False,
    )


class _DropBranch(nn.Dropout):
    """Drops all of an example, as EfficientNet's drop connect does, or nothing.

    transformers has a plain dropout of single values there.
    """

    def forward(self, branch: Tensor) -> Tensor:
        """Values [B, D, F, T], kept ones divided by the probability of keeping them."""
        return branch * super().forward(branch.new_ones(len(branch), 1, 1, 1))


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that loses at most a tenth, as transformers rounds."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
