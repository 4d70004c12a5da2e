"""EfficientAT's "mn" networks: MobileNetV3-Large as an audio tagger.

Schmid et al. 2023 (arXiv 2211.04772); Howard et al. 2019 (arXiv 1905.02244, table 1).
Parameter names are those of the published checkpoints. Padding is kept out of the means
that squeeze-and-excitation takes and out of convolutions, not only out of the
probabilities: without that, 1 s padded to 3 s changes probabilities by up to 0.6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from psl.features.log_mel import float_samples
from psl.features.masks import SpecAugment, counted
from psl.features.preemphasis_mel import PreemphasisMel
from psl.models.config import MnConfig
from psl.models.pooling import decision_mean


class _Stage(NamedTuple):
    """An inverted residual block, at width 1."""

    kernel: int
    expanded: int
    out: int
    excited: bool
    activation: type[nn.Module]
    stride: int


_FIRST, _LAST = 16, 1280
_STAGES = (
    _Stage(3, 16, 16, False, nn.ReLU, 1),
    _Stage(3, 64, 24, False, nn.ReLU, 2),
    _Stage(3, 72, 24, False, nn.ReLU, 1),
    _Stage(5, 72, 40, True, nn.ReLU, 2),
    _Stage(5, 120, 40, True, nn.ReLU, 1),
    _Stage(5, 120, 40, True, nn.ReLU, 1),
    _Stage(3, 240, 80, False, nn.Hardswish, 2),
    _Stage(3, 200, 80, False, nn.Hardswish, 1),
    _Stage(3, 184, 80, False, nn.Hardswish, 1),
    _Stage(3, 184, 80, False, nn.Hardswish, 1),
    _Stage(3, 480, 112, True, nn.Hardswish, 1),
    _Stage(3, 672, 112, True, nn.Hardswish, 1),
    _Stage(5, 672, 160, True, nn.Hardswish, 2),
    _Stage(5, 960, 160, True, nn.Hardswish, 1),
    _Stage(5, 960, 160, True, nn.Hardswish, 1),
)
_HALVINGS = 1 + sum(stage.stride == 2 for stage in _STAGES)
"""Times that the number of frames is halved, rounding up."""
_EXPANSION = 6
"""Of the last convolution's channels over the last block's."""


class Mn(nn.Module):
    """Waveforms to class probabilities."""

    def __init__(self, config: MnConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.front_end = PreemphasisMel(config.front_end)
        self.spec_augment: nn.Module = SpecAugment(config.front_end)
        channels = scaled(_FIRST, config.width)
        layers: list[nn.Module] = [_convolution(1, channels, 3, nn.Hardswish, stride=2)]
        for stage in _STAGES:
            layers.append(_Block(channels, stage, config.width))
            channels = scaled(stage.out, config.width)
        features = _EXPANSION * channels
        layers.append(_convolution(channels, features, 1, nn.Hardswish))
        self.features = nn.ModuleList(layers)
        hidden = scaled(_LAST, config.width)
        # 0, 1 and 3 hold the places of published layers without weights
        self.classifier = nn.Sequential(
            nn.Identity(),
            nn.Identity(),
            nn.Linear(features, hidden),
            nn.Hardswish(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, num_classes),
        )
        self.apply(_initialise)

    def forward(
        self, waveform: Tensor, num_samples: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """clip_probs [B, C] and frame_probs [B, T, C], float32 in [0, 1].

        waveform: [B, N] float in [-1, 1]. num_samples: [B] int, samples before the
        padding of each example (default: N); frames of padding do not count in
        clip_probs.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            log_mel = self.front_end(float_samples(waveform))
        frames = None
        if num_samples is not None:
            frames = self.config.front_end.num_frames(num_samples)
        x = _silenced(self.spec_augment(log_mel, num_samples), frames)
        for layer in self.features:
            x = layer(x, frames) if isinstance(layer, _Block) else layer(x)
            if frames is not None and _halves(layer):
                frames = (frames + 1) // 2
        embedding = x.mean(dim=2).transpose(1, 2)  # [B, T, D]
        if self.config.pooling == "clip":
            # a frame more, not a matrix: exported files then hold the weights once
            whole = decision_mean(embedding, frames).unsqueeze(1)
            clip_probs = self._classify(whole)[:, 0]
            with torch.no_grad():  # for users; the loss sees the clip's alone
                return clip_probs, self._classify(embedding)
        frame_probs = self._classify(embedding)
        return decision_mean(frame_probs, frames), frame_probs

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Output frames [B] that waveforms of ``num_samples`` [B] samples reach."""
        frames = self.config.front_end.num_frames(num_samples)
        for _ in range(_HALVINGS):
            frames = (frames + 1) // 2
        return frames

    @property
    def frame_samples(self) -> int:
        """Samples from the start of one output frame to the start of the next."""
        return (1 << _HALVINGS) * self.config.front_end.hop_length

    def _classify(self, embedding: Tensor) -> Tensor:
        """Probabilities [..., C] float32 of embeddings [..., D]."""
        return self.classifier(embedding).float().sigmoid()


class _Block(nn.Module):
    """Expand, filter each channel, excite, project; a residual where shapes agree."""

    def __init__(self, channels: int, stage: _Stage, width: float) -> None:
        super().__init__()
        expanded, out = scaled(stage.expanded, width), scaled(stage.out, width)
        self.stride = stage.stride
        self._is_residual = stage.stride == 1 and channels == out
        layers: list[nn.Module] = []
        if expanded != channels:
            layers.append(_convolution(channels, expanded, 1, stage.activation))
        layers.append(
            _convolution(
                expanded,
                expanded,
                stage.kernel,
                stage.activation,
                stride=stage.stride,
                groups=expanded,
            )
        )
        if stage.excited:
            layers.append(_Excitations(expanded))
        layers.append(_convolution(expanded, out, 1, None))
        self.block = nn.ModuleList(layers)

    def forward(self, x: Tensor, frames: Tensor | None) -> Tensor:
        """[B, D, F, T] -> [B, E, F', T']; ``frames`` [B] of x are not padding."""
        result = x
        for layer in self.block:
            if isinstance(layer, _Excitations):
                result = layer(result, frames)
                continue
            result = layer(_silenced(result, frames) if _filters(layer) else result)
            if frames is not None and _halves(layer):
                frames = (frames + 1) // 2
        return x + result if self._is_residual else result


class _Excitations(nn.Module):
    """Squeeze-and-excitation over channels, under the name it was published with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([_Excitation(channels)])

    def forward(self, x: Tensor, frames: Tensor | None) -> Tensor:
        return self.conc_se_layers[0](x, frames)


class _Excitation(nn.Module):
    """Scales each channel by what the means of all channels say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scaled(channels // 4, 1.0)
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor, frames: Tensor | None) -> Tensor:
        mean = x.mean(dim=2)
        if frames is None:
            mean = mean.mean(dim=2)
        else:
            real = counted(frames, mean.shape[2])[:, None]
            mean = (mean * real).sum(dim=2) / frames[:, None]
        scale = self.fc2(self.fc1(mean).relu()).sigmoid()
        return x * scale[:, :, None, None]


def head_shape(width: float) -> tuple[int, int]:
    """Outputs and inputs of the first linear layer, which tell the width."""
    last = scaled(_STAGES[-1].out, width)
    return scaled(_LAST, width), _EXPANSION * last


def scaled(channels: int, width: float) -> int:
    """``channels * width`` to the nearest multiple of 8, but at least 0.9 of it."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def _convolution(
    channels: int,
    out: int,
    kernel: int,
    activation: type[nn.Module] | None,
    *,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    padding = (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=1e-3, momentum=0.01),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


def _silenced(x: Tensor, frames: Tensor | None) -> Tensor:
    """``x`` [B, D, F, T] with zeros in padding, as convolutions see beyond an end."""
    if frames is None:
        return x
    return x * counted(frames, x.shape[3])[:, None, None]


def _filters(layer: nn.Module) -> bool:
    """Whether a convolution sees neighbours in time."""
    assert isinstance(layer, nn.Sequential) and isinstance(layer[0], nn.Conv2d)
    return layer[0].kernel_size[1] > 1


def _halves(layer: nn.Module) -> bool:
    """Whether there are half as many frames after a layer."""
    if isinstance(layer, _Block):
        return layer.stride == 2
    assert isinstance(layer, nn.Sequential) and isinstance(layer[0], nn.Conv2d)
    return layer[0].stride[1] == 2


def _initialise(module: nn.Module) -> None:
    """As MobileNetV3 is in torchvision: He's normal by fan-out, linear layers 0.01."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
