"""Waveform [B, N] -> Kaldi's log filter bank [B, 1, F, T], the front end of AST.

Owns the features. An example's features never depend on its batch. The same as
torchaudio.compliance.kaldi.fbank with a Hann window and no dither, which takes one
waveform at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features.config import FbankConfig
from psl.features.mel_tables import kaldi_bands

_PREEMPHASIS, _LOWEST_HZ = 0.97, 20.0


class Fbank(nn.Module):
    """Kaldi's log filter bank, normalised; holds its tables and no weights."""

    window: Tensor
    banks: Tensor

    def __init__(self, config: FbankConfig) -> None:
        super().__init__()
        self._config = config
        self.n_fft = 1 << (config.window_samples - 1).bit_length()
        banks = kaldi_bands(
            config.n_mels,
            self.n_fft,
            sample_rate=config.sample_rate,
            f_min=_LOWEST_HZ,
            f_max=0.0,
        )
        with torch.device("cpu"):  # tables, to be had also for a model on meta
            window = torch.hann_window(config.window_samples, periodic=False)
        self.register_buffer("banks", banks.T.contiguous(), persistent=False)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms [B, N] in [-1, 1] to [B, 1, F, T] float32."""
        config = self._config
        frames = waveform.unfold(1, config.window_samples, config.hop_samples)
        spectrum = torch.fft.rfft(self.emphasised(frames), self.n_fft)
        return self.normalised_log(spectrum.abs().square())

    def emphasised(self, frames: Tensor) -> Tensor:
        """Frames [B, T, N] without their mean, high frequencies raised, windowed."""
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        return (frames - _PREEMPHASIS * before) * self.window

    def normalised_log(self, power: Tensor) -> Tensor:
        """Power [B, T, n_fft / 2 + 1] to features [B, 1, F, T]."""
        config = self._config
        log_mel = (power @ self.banks).clamp(min=torch.finfo(torch.float32).eps).log()
        normal = (log_mel - config.mean) / (2 * config.std)
        return normal.transpose(1, 2).unsqueeze(1)
