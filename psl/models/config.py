"""The configurations of the model families, one class for each ``name``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from psl.config import Dropout, config
from psl.features.config import (
    FbankConfig,
    LogMelConfig,
    PreemphasisMelConfig,
    SlaneyLogMelConfig,
)

DEFAULT = "mobilenetv2"
"""The family that a configuration without a name means: the paper's student."""

Pooling = Literal["mean", "attention"]
Factor = Annotated[float, Field(ge=0.01, le=16)]
"""On a number of channels or blocks."""
Channels = Annotated[int, Field(ge=1, le=1 << 16)]
"""A width of a layer."""


@config
class MobileNetV2Config:
    """The defaults are upstream's: 2,898,383 parameters at 527 classes."""

    name: Literal["mobilenetv2"] = "mobilenetv2"
    width: Factor = 1.0
    """Factor on the channels of every stage."""
    last_channels: Channels = 1280
    """Channels of the last convolution."""
    time_stride: Literal[4, 8, 16, 32] = 32
    """STFT frames per output frame."""
    dropout: Dropout = 0.3
    """Probability of dropping an input of the linear layer."""
    front_end: LogMelConfig = LogMelConfig()


@config
class Cnn14Config:
    """80,753,615 parameters at 527 classes and 64 mels.

    The front end is that of the published 16 kHz model.
    """

    name: Literal["cnn14"] = "cnn14"
    width: Factor = 1.0
    """Factor on the channels of every block."""
    pooling: Literal["mean", "clip"] = "mean"
    """mean: of the probabilities of frames (decision mean). clip: of the largest and
    the mean embedding, before the last two layers, as the published Cnn14 has it; the
    weights have the same names and shapes."""
    conv_dropout: Dropout = 0.2
    """Probability of dropping an output of a block."""
    dropout: Dropout = 0.5
    """Probability of dropping an input of the last two layers."""
    front_end: SlaneyLogMelConfig = SlaneyLogMelConfig()


@config
class EfficientNetB0Config:
    """4.68 million parameters at 527 classes."""

    name: Literal["efficientnet_b0"] = "efficientnet_b0"
    width: Factor = 1.0
    """Factor on B0's channels."""
    depth: Factor = 1.0
    """Factor on B0's blocks in each stage."""
    pooling: Pooling = "mean"
    """Over frames: mean of their probabilities, or PSLA's attention (4 heads)."""
    dropout: Dropout = 0.2
    """Probability of dropping an input of the last layer."""
    drop_connect: Dropout = 0.2
    """Probability that an example loses the last block's residual branch; it rises
    from block to block to this."""
    front_end: LogMelConfig = LogMelConfig()


@config
class EfficientNetB2Config:
    """8.44 million parameters at 527 classes."""

    name: Literal["efficientnet_b2"] = "efficientnet_b2"
    width: Factor = 1.0
    """Factor on B2's channels."""
    depth: Factor = 1.0
    """Factor on B2's blocks in each stage."""
    pooling: Pooling = "mean"
    """Over frames: mean of their probabilities, or PSLA's attention (4 heads)."""
    dropout: Dropout = 0.3
    """Probability of dropping an input of the last layer."""
    drop_connect: Dropout = 0.2
    """Probability that an example loses the last block's residual branch; it rises
    from block to block to this."""
    front_end: LogMelConfig = LogMelConfig()


@config
class ResNet50Config:
    """24.6 million parameters at 527 classes."""

    name: Literal["resnet50"] = "resnet50"
    width: Factor = 1.0
    """Factor on all channels."""
    depth: Factor = 1.0
    """Factor on the blocks of each stage."""
    pooling: Pooling = "mean"
    """Over frames: mean of their probabilities, or PSLA's attention (4 heads)."""
    dropout: Dropout = 0.0
    """Probability of dropping an input of the last layer."""
    front_end: LogMelConfig = LogMelConfig()


@config
class ASTConfig:
    """86.6 million parameters at 527 classes."""

    name: Literal["ast"] = "ast"
    hidden_size: Channels = 768
    """Width; a multiple of num_heads."""
    num_layers: int = Field(default=12, ge=1, le=1000)
    """Transformer layers."""
    num_heads: int = Field(default=12, ge=1, le=1000)
    """Attention heads of a layer."""
    frequency_stride: int = Field(default=10, ge=1, le=16)
    """Mel bands from patch to patch; a patch has 16."""
    time_stride: int = Field(default=10, ge=1, le=16)
    """Frames of 10 ms from patch to patch; a patch has 16."""
    max_frames: int = Field(default=1024, ge=16, le=1 << 20)
    """Longest window, in frames of 10 ms; longer audio is cut into several."""
    fill: bool = False
    """Pad shorter windows with zeros to max_frames, and attend to the padding, as the
    published models do; false attends to real frames alone, and costs less."""
    dropout: Dropout = 0.0
    """Probability of dropping a value after each part of a layer."""
    front_end: FbankConfig = FbankConfig()


@config
class MnConfig:
    """MobileNetV3 of EfficientAT: 4.88 million parameters at width 1, 527 classes."""

    name: Literal["mn"] = "mn"
    width: Factor = 1.0
    """Factor on all channels: 0.4 for the published mn04, 1 for mn10, 4 for mn40."""
    pooling: Literal["mean", "clip"] = "mean"
    """mean: of the probabilities of frames (decision mean), right for short chunks.
    clip: of the embeddings over time and frequency, as the published models have it;
    the weights have the same names and shapes."""
    dropout: Dropout = 0.2
    """Probability of dropping an input of the last layer."""
    front_end: PreemphasisMelConfig = PreemphasisMelConfig()


def _name_of(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", DEFAULT))
    return str(getattr(value, "name", type(value).__name__))


ModelConfig = Annotated[
    Annotated[MobileNetV2Config, Tag("mobilenetv2")]
    | Annotated[Cnn14Config, Tag("cnn14")]
    | Annotated[EfficientNetB0Config, Tag("efficientnet_b0")]
    | Annotated[EfficientNetB2Config, Tag("efficientnet_b2")]
    | Annotated[ResNet50Config, Tag("resnet50")]
    | Annotated[ASTConfig, Tag("ast")]
    | Annotated[MnConfig, Tag("mn")],
    Discriminator(_name_of),
]
"""Any family's configuration; ``name`` tells which."""
