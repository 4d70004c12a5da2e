"""The front ends in plain operations: reshapes, matrix products, logarithms.

What every runtime of ONNX has, a browser's too, and several times faster than a Fourier
transform by one matrix. Owns no numbers: windows and mel bands are those of
psl/features. The Fourier transform is taken in two steps of small matrices (Cooley and
Tukey 1965), whose sums are short, so that rounding is as small as an FFT's.
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
from psl.features.fbank import PREEMPHASIS as FBANK_PREEMPHASIS
from psl.features.preemphasis_mel import FLOOR, PREEMPHASIS, SCALE, SHIFT

_DB_FLOOR = 1e-10
"""Of torchaudio's AmplitudeToDB."""


def plain_front_end(config: Any, theirs: nn.Module) -> nn.Module:
    """A module that computes what ``theirs``, the front end of ``config``, computes.

    Waveforms [B, N] or [B, 1, N] -> [B, 1, F, T] float32, N of ``shortest_samples`` or
    more.
    """
    if isinstance(config, LogMelConfig):
        return _DecibelMel(config, theirs, config.top_db, config.mean_db, config.std_db)
    if isinstance(config, SlaneyLogMelConfig):
        return _DecibelMel(config, theirs, None, 0.0, 1.0)
    if isinstance(config, PreemphasisMelConfig):
        return _PreemphasisMel(config, theirs)
    if isinstance(config, FbankConfig):
        return _Fbank(config, theirs)
    raise ValueError(f"no plain front end for {type(config).__name__}")


class _DecibelMel(nn.Module):
    """torchaudio's MelSpectrogram and AmplitudeToDB, normalised."""

    banks: Tensor

    def __init__(
        self,
        config: LogMelConfig | SlaneyLogMelConfig,
        theirs: Any,
        top_db: float | None,
        mean_db: float,
        std_db: float,
    ) -> None:
        super().__init__()
        self.register_buffer("banks", theirs[0].mel_scale.fb.clone())
        self.power = _CentredPower(
            theirs[0].spectrogram.window, config.n_fft, config.hop_length
        )
        self._top_db, self._mean_db, self._std_db = top_db, mean_db, std_db

    def forward(self, waveform: Tensor) -> Tensor:
        mel = self.power(waveform.flatten(1)) @ self.banks
        db = mel.clamp(min=_DB_FLOOR).log() * (10 / math.log(10))
        if self._top_db is not None:
            db = torch.maximum(db, db.amax(dim=(1, 2), keepdim=True) - self._top_db)
        return ((db - self._mean_db) / self._std_db).transpose(1, 2).unsqueeze(1)


class _PreemphasisMel(nn.Module):
    """EfficientAT's."""

    banks: Tensor

    def __init__(self, config: PreemphasisMelConfig, theirs: Any) -> None:
        super().__init__()
        self.register_buffer("banks", theirs.banks.T.contiguous())
        left = (config.n_fft - config.window_samples) // 2  # as torch.stft has it
        right = config.n_fft - config.window_samples - left
        window = nn.functional.pad(theirs.window, (left, right))
        self.power = _CentredPower(window, config.n_fft, config.hop_length)

    def forward(self, waveform: Tensor) -> Tensor:
        emphasised = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
        mel = self.power(emphasised) @ self.banks
        return (((mel + FLOOR).log() + SHIFT) / SCALE).transpose(1, 2).unsqueeze(1)


class _Fbank(nn.Module):
    """Kaldi's, without centring."""

    banks: Tensor
    window: Tensor

    def __init__(self, config: FbankConfig, theirs: Any) -> None:
        super().__init__()
        self._config = config
        n_fft = 2 * (len(theirs.banks) - 1)
        self.register_buffer("banks", theirs.banks.clone())
        self.register_buffer("window", theirs.window.clone())
        self._padding = n_fft - config.window_samples
        self.fourier = _Power(n_fft)

    def forward(self, waveform: Tensor) -> Tensor:
        size, hop = self._config.window_samples, self._config.hop_samples
        frames = cut_frames(waveform, size, hop, (waveform.shape[1] - size) // hop + 1)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        frames = (frames - FBANK_PREEMPHASIS * before) * self.window
        # not by pad, after which a trace takes the number of frames for a constant
        frames = torch.cat([frames, 0 * frames[:, :, : self._padding]], dim=2)
        power = self.fourier(frames)
        log_mel = (power @ self.banks).clamp(min=torch.finfo(torch.float32).eps).log()
        normal = (log_mel - self._config.mean) / (2 * self._config.std)
        return normal.transpose(1, 2).unsqueeze(1)


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
