"""ResNet-50 as an audio tagger (He et al. 2015, arXiv 1512.03385).

The convolutions are transformers'.
"""

from __future__ import annotations

from torch import nn

from psl.models.config import ResNet50Config
from psl.models.convolutional import ConvTagger, transformers_module

_STEM_CHANNELS = 64
_STAGES = ((256, 3), (512, 4), (1024, 6), (2048, 3))
"""Channels and blocks of each stage: arXiv 1512.03385, table 1."""


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
