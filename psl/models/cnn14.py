"""CNN14 as an audio tagger (Kong et al. 2020, PANNs, arXiv 1912.10211, table II).

Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features.log_mel import float_samples, log_mel
from psl.features.masks import SpecAugment, counted
from psl.models.config import Cnn14Config
from psl.models.convolutional import at_least
from psl.models.pooling import decision_mean

_CHANNELS = (64, 128, 256, 512, 1024, 2048)
_STRIDE = 32


class Cnn14(nn.Module):
    """Waveforms to class probabilities."""

    def __init__(self, config: Cnn14Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.front_end = log_mel(config.front_end)
        self.spec_augment: nn.Module = SpecAugment(config.front_end)
        self.bn0 = nn.BatchNorm1d(config.front_end.n_mels)
        channels = [1, *(max(8, round(c * config.width)) for c in _CHANNELS)]
        self.conv_block1 = _ConvBlock(channels[0], channels[1])
        self.conv_block2 = _ConvBlock(channels[1], channels[2])
        self.conv_block3 = _ConvBlock(channels[2], channels[3])
        self.conv_block4 = _ConvBlock(channels[3], channels[4])
        self.conv_block5 = _ConvBlock(channels[4], channels[5])
        self.conv_block6 = _ConvBlock(channels[5], channels[6])
        self.fc1 = nn.Linear(channels[6], channels[6])
        self.fc_audioset = nn.Linear(channels[6], num_classes)
        self._conv_dropout = nn.Dropout(config.conv_dropout)
        self._dropout = nn.Dropout(config.dropout)

    def forward(
        self, waveform: Tensor, num_samples: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """clip_probs [B, C] and frame_probs [B, T, C], float32 in [0, 1].

        waveform: [B, N] float in [-1, 1]. num_samples: [B] int, samples before the
        padding of each example (default: N); frames of padding do not count in
        clip_probs.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            mel = self.front_end(float_samples(waveform))
        features = at_least(self.spec_augment(mel, num_samples), _STRIDE)
        embedding = self._embed(features)
        num_frames = None if num_samples is None else self.num_frames(num_samples)
        if self.config.pooling == "clip":
            whole = _largest_plus_mean(embedding, num_frames)
            clip_probs = self._classify(whole.unsqueeze(1))[:, 0]
            with torch.no_grad():  # for users; the loss sees the clip's alone
                return clip_probs, self._classify(_smooth(embedding))
        frame_probs = self._classify(_smooth(embedding))
        return decision_mean(frame_probs, num_frames), frame_probs

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Output frames [B] that waveforms of ``num_samples`` [B] samples reach."""
        frames = self.config.front_end.num_frames(num_samples)
        return (frames // _STRIDE).clamp(min=1)

    @property
    def frame_samples(self) -> int:
        """Samples from the start of one output frame to the start of the next."""
        return _STRIDE * self.config.front_end.hop_length

    def _embed(self, log_mel: Tensor) -> Tensor:
        """[B, 1, F, T] -> [B, D, T / 32]."""
        # published as BatchNorm2d of [B, F, 1, T]; torch 2.13 has wrong gradients of
        # that on the CPU where convolutions are channels-last
        x = self.bn0(log_mel[:, 0]).transpose(1, 2).unsqueeze(1)  # [B, 1, T, F]
        for block in (
            self.conv_block1,
            self.conv_block2,
            self.conv_block3,
            self.conv_block4,
            self.conv_block5,
        ):
            x = self._conv_dropout(nn.functional.avg_pool2d(block(x), 2))
        x = self._conv_dropout(self.conv_block6(x))
        return x.mean(dim=3)

    def _classify(self, embedding: Tensor) -> Tensor:
        """[B, T, D] -> probabilities [B, T, C] float32."""
        hidden = self.fc1(self._dropout(embedding)).relu()
        return self.fc_audioset(self._dropout(hidden)).float().sigmoid()


class _ConvBlock(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu_()
        return self.bn2(self.conv2(x)).relu_()


def _smooth(embedding: Tensor) -> Tensor:
    """[B, D, T] -> [B, T, D], each frame with its neighbours: largest plus mean.

    As the published Cnn14_DecisionLevelAvg does, whose mean counts the zeros beyond
    the ends.
    """
    largest = nn.functional.max_pool1d(embedding, 3, stride=1, padding=1)
    mean = nn.functional.avg_pool1d(embedding, 3, stride=1, padding=1)
    return (largest + mean).transpose(1, 2)


def _largest_plus_mean(embedding: Tensor, num_frames: Tensor | None) -> Tensor:
    """[B, D, T] -> [B, D] over the frames before the padding."""
    if num_frames is None:
        return embedding.amax(dim=2) + embedding.mean(dim=2)
    real = counted(num_frames, embedding.shape[2]).unsqueeze(1)
    # embeddings follow a ReLU: zeros change neither largest nor sum
    embedding = embedding * real
    return embedding.amax(dim=2) + embedding.sum(dim=2) / num_frames.unsqueeze(1)
