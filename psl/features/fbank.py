"""Waveform [B, N] -> Kaldi's log filter bank [B, 1, F, T], the front end of AST.

Owns the features. An example's features never depend on its batch. The same as
torchaudio.compliance.kaldi.fbank with a Hann window and no dither, which takes one
waveform at a time.
"""

from __future__ import annotations

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from psl.config import STRICT
from psl.features._torchaudio import import_kaldi

_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.010
_PREEMPHASIS, _LOWEST_HZ = 0.97, 20.0


@dataclass(frozen=True, config=STRICT)
class FbankConfig:
    """25 ms windows every 10 ms; the defaults are those of the published AST."""

    sample_rate: int = Field(default=16000, ge=1000)
    """Rate the audio must have, Hz."""
    n_mels: int = Field(default=128, ge=16)
    """Mel bands (F)."""
    mean: float = -4.2677393
    """Subtracted from the natural logarithm; AudioSet's mean by default."""
    std: float = Field(default=4.5689974, gt=0)
    """The result is divided by twice this; AudioSet's standard deviation by default."""

    @property
    def window_samples(self) -> int:
        """Length of a window."""
        return int(self.sample_rate * _WINDOW_SECONDS)

    @property
    def hop_samples(self) -> int:
        """Distance of windows."""
        return int(self.sample_rate * _HOP_SECONDS)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Whole windows in waveforms of ``num_samples`` samples, 1 at least."""
        return ((num_samples - self.window_samples) // self.hop_samples + 1).clamp(1)

    def num_samples(self, num_frames: int) -> int:
        """Samples that ``num_frames`` windows cover."""
        return self.window_samples + (num_frames - 1) * self.hop_samples

    @property
    def zero(self) -> float:
        """What the normalisation makes of 0, with which the published AST pads."""
        return -self.mean / (2 * self.std)


class Fbank(nn.Module):
    """Waveforms [B, N] in [-1, 1] to [B, 1, F, T] float32."""

    window: Tensor
    banks: Tensor

    def __init__(self, config: FbankConfig) -> None:
        super().__init__()
        self._config = config
        self._n_fft = 1 << (config.window_samples - 1).bit_length()
        with torch.device("cpu"):  # tables, to be had also for a model on meta
            banks, _ = import_kaldi().get_mel_banks(
                config.n_mels,
                self._n_fft,
                float(config.sample_rate),
                _LOWEST_HZ,
                0.0,
                100.0,
                -500.0,
                1.0,
            )
            window = torch.hann_window(config.window_samples, periodic=False)
        # the bands end below the Nyquist frequency, whose bin is missing
        banks = nn.functional.pad(banks, (0, 1)).T.contiguous()
        self.register_buffer("banks", banks, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        config = self._config
        frames = waveform.unfold(1, config.window_samples, config.hop_samples)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        frames = (frames - _PREEMPHASIS * before) * self.window
        power = torch.fft.rfft(frames, self._n_fft).abs().square()
        log_mel = (power @ self.banks).clamp(min=torch.finfo(torch.float32).eps).log()
        normal = (log_mel - config.mean) / (2 * config.std)
        return normal.transpose(1, 2).unsqueeze(1)
