"""The front ends in plain operations: reshapes, matrix products, logarithms.

What every runtime of ONNX has, a browser's too, and several times faster than a Fourier
transform by one matrix. Owns the cutting of frames and their Fourier transform; all
else is what psl/features computes. The transform is taken in two steps of small
matrices (Cooley and Tukey 1965), whose sums are short, so that rounding is as small as
an FFT's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from psl.features.config import (
    FbankConfig,
    LogMelConfig,
    PreemphasisMelConfig,
    SlaneyLogMelConfig,
)
from psl.features.fbank import Fbank
from psl.features.log_mel import MelSpectrogram
from psl.features.preemphasis_mel import PreemphasisMel


def plain_front_end(config: Any, theirs: Any) -> nn.Module:
    """A module that computes what ``theirs``, the front end of ``config``, computes.

    Waveforms [B, N] -> [B, 1, F, T] float32, N of ``shortest_samples`` or more.
    """
    if isinstance(config, LogMelConfig | SlaneyLogMelConfig):
        mel, decibels = theirs
        power = _CentredPower(mel.spectrogram.window, config.n_fft, config.hop_length)
        return nn.Sequential(
            MelSpectrogram(power, _PlainMelScale(mel.mel_scale.fb)), decibels
        )
    if isinstance(config, PreemphasisMelConfig):
        return _PlainPreemphasisMel(config, theirs)
    if isinstance(config, FbankConfig):
        return _PlainFbank(config, theirs)
    raise ValueError(f"no plain front end for {type(config).__name__}")


class _PlainMelScale(nn.Module):
    """[B, T, n_fft / 2 + 1] to [B, T, F] by one matrix for all examples."""

    fb: Tensor

    def __init__(self, bands: Tensor) -> None:
        super().__init__()
        self.register_buffer("fb", bands)

    def forward(self, power: Tensor) -> Tensor:
        return power @ self.fb


class _PlainPreemphasisMel(nn.Module):
    """EfficientAT's."""

    def __init__(self, config: PreemphasisMelConfig, theirs: PreemphasisMel) -> None:
        super().__init__()
        self._theirs = theirs
        left = (config.n_fft - config.window_samples) // 2  # as torch.stft has it
        right = config.n_fft - config.window_samples - left
        window = nn.functional.pad(theirs.window, (left, right))
        self.power = _CentredPower(window, config.n_fft, config.hop_length)

    def forward(self, waveform: Tensor) -> Tensor:
        power = self.power(self._theirs.emphasised(waveform))
        return self._theirs.scaled_log(power.transpose(1, 2))


class _PlainFbank(nn.Module):
    """Kaldi's, without centring."""

    def __init__(self, config: FbankConfig, theirs: Fbank) -> None:
        super().__init__()
        self._config, self._theirs = config, theirs
        self._padding = theirs.n_fft - config.window_samples
        self.fourier = _Power(theirs.n_fft)

    def forward(self, waveform: Tensor) -> Tensor:
        size, hop = self._config.window_samples, self._config.hop_samples
        frames = cut_frames(waveform, size, hop, (waveform.shape[1] - size) // hop + 1)
        frames = self._theirs.emphasised(frames)
        # not by pad, after which a trace takes the number of frames for a constant
        frames = torch.cat([frames, 0 * frames[:, :, : self._padding]], dim=2)
        return self._theirs.normalised_log(self.fourier(frames))


class _CentredPower(nn.Module):
    """The power spectrum of an STFT that reflects half a window at both ends."""

    window: Tensor

    def __init__(self, window: Tensor, n_fft: int, hop: int) -> None:
        super().__init__()
        self.register_buffer("window", window.clone())
        self._n_fft, self._hop = n_fft, hop
        self.fourier = _Power(n_fft)

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, N] -> [B, T, n_fft / 2 + 1]."""
        number = waveform.shape[1] // self._hop + 1
        half = self._n_fft // 2
        padded = nn.functional.pad(waveform.unsqueeze(1), (half, half), mode="reflect")
        frames = cut_frames(padded[:, 0], self._n_fft, self._hop, number)
        return self.fourier(frames * self.window)


def cut_frames(samples: Tensor, size: int, hop: int, number: int) -> Tensor:
    """[B, number, size], frame t from sample t * hop on, of samples [B, N].

    Rows of ``hop`` samples, shifted against each other and put side by side.
    """
    rows = -(-size // hop)
    total = (number + rows - 1) * hop
    # not by pad, after which a trace takes the length for a constant
    zeros = samples.new_zeros(samples.shape[0], (rows + 1) * hop)
    samples = torch.cat([samples, zeros], dim=1)[:, :total]
    table = samples.reshape(samples.shape[0], -1, hop)
    shifted = [table[:, row : row + number] for row in range(rows)]
    return torch.cat(shifted, dim=2)[:, :, :size]


class _Power(nn.Module):
    """Squared magnitudes of the discrete Fourier transform of real frames.

    n = N2 n1 + n2 and k = k1 + N1 k2: transforms over n1, a twist, then over n2.
    """

    first: Tensor
    twist_real: Tensor
    twist_imag: Tensor
    second: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self._rows, self._columns = n1, n2 = _factors(size)
        self._bins = size // 2 + 1
        self._needed = (self._bins - 1) // n1 + 1  # of the k2
        first = _exponentials(n1, n1, n1)
        self.register_buffer(
            "first", torch.cat([first.real, first.imag], dim=1).float()
        )
        twist = _exponentials(n2, n1, size)
        self.register_buffer("twist_real", twist.real.float())
        self.register_buffer("twist_imag", twist.imag.float())
        second = _exponentials(n2, self._needed, n2)
        real = torch.cat([second.real, second.imag], dim=1)
        imag = torch.cat([-second.imag, second.real], dim=1)
        self.register_buffer("second", torch.cat([real, imag], dim=0).float())

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, size] -> [B, T, size / 2 + 1]."""
        n1, n2, needed = self._rows, self._columns, self._needed
        batch, total = frames.shape[:2]
        grid = frames.reshape(batch, total, n1, n2).transpose(2, 3)
        inner = grid @ self.first
        real, imag = inner[..., :n1], inner[..., n1:]
        twisted = torch.cat(
            [
                real * self.twist_real - imag * self.twist_imag,
                real * self.twist_imag + imag * self.twist_real,
            ],
            dim=2,
        ).transpose(2, 3)  # [B, T, k1, 2 n2]
        square = (twisted @ self.second).square()
        power = square[..., :needed] + square[..., needed:]  # [B, T, k1, k2]
        power = power.transpose(2, 3).reshape(batch, total, needed * n1)
        return power[:, :, : self._bins]


def _factors(size: int) -> tuple[int, int]:
    """Two factors of ``size``, as near to each other as there are."""
    small = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return size // small, small


def _exponentials(rows: int, columns: int, period: int) -> Tensor:
    """[rows, columns] exp(-2 pi i row column / period) in double precision."""
    product = torch.arange(rows)[:, None] * torch.arange(columns)
    angle = (product % period).double() * (-2 * math.pi / period)
    return torch.polar(torch.ones_like(angle), angle)


def shortest_samples(config: Any) -> int:
    """The least samples that an exported model takes: half a second or 32 frames."""
    half_second = round(0.5 * config.sample_rate)
    if isinstance(config, FbankConfig):
        return max(half_second, config.num_samples(32))
    window = config.n_fft // 2 + 2  # what can be reflected
    return max(half_second, window, 32 * config.hop_length + 1)
