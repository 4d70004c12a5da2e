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
from typing import Any

from torch import nn

from psl.config import parse
from psl.models import efficientnet, resnet
from psl.models.ast import AST
from psl.models.cnn14 import Cnn14
from psl.models.config import (
    DEFAULT,
    ASTConfig,
    Cnn14Config,
    EfficientNetB0Config,
    EfficientNetB2Config,
    MnConfig,
    MobileNetV2Config,
    ModelConfig,
    ResNet50Config,
)
from psl.models.mn import Mn
from psl.models.mobilenetv2 import MobileNetV2


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
    "mn": Family(MnConfig, Mn, "classifier.5."),
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
