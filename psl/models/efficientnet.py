"""EfficientNet B0 and B2 as audio taggers (Tan & Le 2019, arXiv 1905.11946).

The convolutions are transformers'. Padding does not count in the mean over frames, but
squeeze-and-excitation sees it: its channel weights are means over all of a chunk.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from psl.models.config import EfficientNetB0Config, EfficientNetB2Config
from psl.models.convolutional import ConvTagger, transformers_module

_SCALES = {"efficientnet_b0": (1.0, 1.0), "efficientnet_b2": (1.1, 1.2)}
"""Factors on width and depth: arXiv 1905.11946 and its published code."""
# transformers' 0.99 is Keras' 0.99, which is 0.01 in torch's words: with it the
# statistics in evaluation are those of the last batch
_NORM_MOMENTUM = 0.1


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
