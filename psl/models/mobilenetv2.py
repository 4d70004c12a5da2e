"""MobileNetV2 as an audio tagger: the paper's student.

Sandler et al., CVPR 2018 (arXiv 1801.04381), table 2, with one input channel,
frequency-only average pooling and one linear layer per frame. Parameter names are
those of upstream's checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features.log_mel import float_samples, log_mel
from psl.features.masks import SpecAugment
from psl.models.config import MobileNetV2Config
from psl.models.pooling import decision_mean

# expansion, channels, blocks, stride of each stage: arXiv 1801.04381, table 2
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """Waveforms to class probabilities."""

    def __init__(self, config: MobileNetV2Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.front_end = log_mel(config.front_end)
        self.spec_augment: nn.Module = SpecAugment(config.front_end)
        self.features = _features(config)
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.last_channels, num_classes)
        )

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
            log_mel = self.spec_augment(log_mel, num_samples)
        embedding = self.features(log_mel).mean(dim=2).transpose(1, 2)
        frame_probs = self.classifier(embedding).float().sigmoid()
        num_frames = None if num_samples is None else self.num_frames(num_samples)
        return decision_mean(frame_probs, num_frames), frame_probs

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Output frames [B] that waveforms of ``num_samples`` [B] samples reach."""
        frames = self.config.front_end.num_frames(num_samples)
        return (frames + self.config.time_stride - 1) // self.config.time_stride

    @property
    def frame_samples(self) -> int:
        """Samples from the start of one output frame to the start of the next."""
        return self.config.time_stride * self.config.front_end.hop_length


def _features(config: MobileNetV2Config) -> nn.Sequential:
    """The convolutions: [B, 1, F, T] -> [B, last_channels, F / 32, T / time_stride]."""
    time_strides_left: int = config.time_stride
    channels = _round_channels(32 * config.width)
    layers: list[nn.Module] = [_conv_norm(1, channels, kernel=3, stride=(2, 2))]
    time_strides_left //= 2
    for expansion, stage_channels, blocks, stride in _STAGES:
        out_channels = _round_channels(stage_channels * config.width)
        for block in range(blocks):
            frequency = stride if block == 0 else 1
            time = min(frequency, time_strides_left)
            time_strides_left //= time
            layers.append(
                _InvertedResidual(channels, out_channels, expansion, (frequency, time))
            )
            channels = out_channels
    layers.append(_conv_norm(channels, config.last_channels, kernel=1))
    return nn.Sequential(*layers)


def _conv_norm(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),  # in place, autograd would keep a copy of its input
    )


class _InvertedResidual(nn.Module):
    """Expand, filter per channel, project; added to the input where shapes allow."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        stride: tuple[int, int],
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_norm(in_channels, hidden, kernel=1))
        layers += [
            _conv_norm(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == (1, 1) and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that loses at most a tenth (arXiv 1801.04381)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
