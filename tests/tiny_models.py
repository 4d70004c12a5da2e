"""Options that make each family small enough for a test."""

from __future__ import annotations

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"width": 0.25, "last_channels": 64},
    "cnn14": {"width": 0.05},
    "efficientnet_b0": {"width": 0.25, "depth": 0.5},
    "efficientnet_b2": {"width": 0.25, "depth": 0.5, "pooling": "attention"},
    "resnet50": {"width": 0.1, "depth": 0.3},
    "mn": {"width": 0.1},
    "ast": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_frames": 208},
}
