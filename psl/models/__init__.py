"""The model families, by name.

A model maps waveforms [B, N] at its front end's rate, in [-1, 1], to (clip_probs
[B, C], frame_probs [B, T, C]); the clip probability is the mean over frames of the
frame probabilities (decision mean, paper section 2).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from psl.config import parse
from psl.models.mobilenetv2 import MobileNetV2, MobileNetV2Config

ModelConfig = MobileNetV2Config
"""Any family's configuration; ``name`` tells which."""

FAMILIES = {"mobilenetv2": (MobileNetV2Config, MobileNetV2)}
"""Configuration and module of each family."""


def build_model(
    name: str = "mobilenetv2", *, num_classes: int = 527, **options: Any
) -> nn.Module:
    """A model with fresh weights; ``options`` are the fields of its configuration.

    Raises ValueError for an unknown name or option.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(FAMILIES)}")
    config_class, module = FAMILIES[name]
    config = parse(config_class, {"name": name, **options}, where=f"model {name}")
    return module(config, num_classes)


def build_from_config(config: ModelConfig, num_classes: int) -> nn.Module:
    """A model with fresh weights from its configuration dataclass."""
    return build_model(**dataclasses.asdict(config), num_classes=num_classes)
