"""The model families, by name.

A model maps waveforms [B, N] at its front end's rate, in [-1, 1], to (clip_probs
[B, C], frame_probs [B, T, C]); the clip probability is the mean over frames of the
frame probabilities (decision mean, paper section 2) unless ``pooling`` says otherwise.
Between front end and network stands ``spec_augment``, which does nothing but in
training with augmentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag
from torch import nn

from psl.config import parse
from psl.models import efficientnet, resnet
from psl.models.ast import AST, ASTConfig
from psl.models.cnn14 import Cnn14, Cnn14Config
from psl.models.efficientnet import EfficientNetB0Config, EfficientNetB2Config
from psl.models.mobilenetv2 import MobileNetV2, MobileNetV2Config
from psl.models.resnet import ResNet50Config

DEFAULT = "mobilenetv2"
"""What a configuration means that names no family: the paper's student."""


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
    | Annotated[ASTConfig, Tag("ast")],
    Discriminator(_name_of),
]
"""Any family's configuration; ``name`` tells which."""


@dataclasses.dataclass(frozen=True)
class Family:
    """What belongs to a name."""

    config: Any
    """Its configuration dataclass."""
    build: Callable[[Any, int], nn.Module]
    """From configuration and number of classes."""
    classifier: str
    """How the names of the weights begin that belong to a list of classes."""


FAMILIES = {
    "mobilenetv2": Family(MobileNetV2Config, MobileNetV2, "classifier."),
    "cnn14": Family(Cnn14Config, Cnn14, "fc_audioset."),
    "efficientnet_b0": Family(EfficientNetB0Config, efficientnet.build, "head."),
    "efficientnet_b2": Family(EfficientNetB2Config, efficientnet.build, "head."),
    "resnet50": Family(ResNet50Config, resnet.build, "head."),
    "ast": Family(ASTConfig, AST, "classifier.dense."),
}


def build_model(
    name: str = DEFAULT, *, num_classes: int = 527, **options: Any
) -> nn.Module:
    """A model with fresh weights; ``options`` are the fields of its configuration.

    Raises ValueError for an unknown name or option, or if the family needs a package
    that is not installed.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(FAMILIES)}")
    values = {"name": name, **options}
    config = parse(FAMILIES[name].config, values, where=f"model {name}")
    return build_from_config(config, num_classes)


def build_from_config(config: ModelConfig, num_classes: int) -> nn.Module:
    """A model with fresh weights from its configuration dataclass."""
    return FAMILIES[config.name].build(config, num_classes)
