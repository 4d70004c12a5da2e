"""A model as it is exported: plain operations, no lengths, of waveforms or features."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from psl.exporting.front_end import plain_front_end
from psl.features.config import FbankConfig, LogMelConfig, SlaneyLogMelConfig
from psl.models.ast import AST


class FromWaveform(nn.Module):
    """Whole waveforms [B, N] -> clip_probs [B, C], frame_probs [B, T, C]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _prepared(model)
        self.model.front_end = plain_front_end(
            self.model.config.front_end, self.model.front_end
        )

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Of [B, N] float32."""
        return _whole(self.model, waveform)


class FromFeatures(nn.Module):
    """Features [B, 1, F, T] of the front end -> the same."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _prepared(model)
        self._given = _Given()
        self.model.front_end = self._given
        self._config = self.model.config.front_end

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of [B, 1, F, T] float32."""
        samples = samples_of(self._config, features.shape[3])
        self._given.kept.append(features)
        # only the shape of these is looked at
        return _whole(self.model, features.new_zeros(features.shape[0], samples))


def _whole(model: nn.Module, waveform: Tensor) -> tuple[Tensor, Tensor]:
    """The model's outputs for waveforms without padding."""
    if not isinstance(model, AST):
        clip_probs, frame_probs = model(waveform)
    else:  # said as a tensor, or a trace keeps the length that it was traced with
        lengths = torch.ones_like(waveform[:, 0], dtype=torch.int64)
        clip_probs, frame_probs = model(waveform, lengths * waveform.shape[1])
    return clip_probs, frame_probs


class _Given(nn.Module):
    """Stands where the front end was, and gives what was put into ``kept``."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def forward(self, waveform: Tensor) -> Tensor:
        return self.kept.pop()


def _prepared(model: nn.Module) -> Any:
    prepared = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in list(prepared.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):  # EfficientNet's fixes the batch size
                setattr(module, name, nn.Identity())
    if isinstance(prepared, AST):
        prepared.whole_windows = True
    return prepared


def samples_of(config: Any, num_frames: int) -> int:
    """The least samples whose features have ``num_frames`` frames."""
    if isinstance(config, FbankConfig):
        return config.num_samples(num_frames)
    extra = 0 if isinstance(config, LogMelConfig | SlaneyLogMelConfig) else 1
    return (num_frames - 1) * config.hop_length + extra


def features_of(model: nn.Module, waveform: Tensor) -> Tensor:
    """Features [B, 1, F, T] that the model's own front end makes of [B, N]."""
    front_end: Any = model.front_end
    with torch.no_grad():
        features: Tensor = front_end(waveform)
    return features
