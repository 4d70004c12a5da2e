"""Waveform [B, N] -> normalised log-mel [B, 1, F, T], the front end of EfficientAT.

Owns the features; an example's never depend on its batch. Schmid et al. 2023 (arXiv
2211.04772). In their training the band edges move at random, which is left out here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features.config import PreemphasisMelConfig
from psl.features.log_mel import check_length
from psl.features.mel_tables import kaldi_bands

_PREEMPHASIS = 0.97
_FLOOR, _SHIFT, _SCALE = 1e-5, 4.5, 5.0
"""Of the logarithm: (log(mel + floor) + shift) / scale."""


class PreemphasisMel(nn.Module):
    """Pre-emphasis, power spectrum, Kaldi's mel bands, logarithm; holds only tables."""

    window: Tensor
    banks: Tensor

    def __init__(self, config: PreemphasisMelConfig) -> None:
        super().__init__()
        if config.window_samples > config.n_fft:
            raise ValueError(
                f"front_end.window_samples {config.window_samples} is longer than "
                f"n_fft {config.n_fft}; expected at most that"
            )
        self._config = config
        banks = kaldi_bands(
            config.n_mels,
            config.n_fft,
            sample_rate=config.sample_rate,
            f_min=config.f_min,
            f_max=config.f_max,
        )
        with torch.device("cpu"):  # tables, to be had also for a model on meta
            window = torch.hann_window(config.window_samples, periodic=False)
        self.register_buffer("banks", banks, False)
        self.register_buffer("window", window, False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms [B, N] in [-1, 1], N > n_fft / 2 + 1, to [B, 1, F, T] float32."""
        config = self._config
        check_length(waveform, config.n_fft // 2 + 2)  # pre-emphasis takes one away
        spectrum = torch.stft(
            self.emphasised(waveform),
            config.n_fft,
            hop_length=config.hop_length,
            win_length=config.window_samples,
            window=self.window,
            return_complex=True,
        )
        return self.scaled_log(spectrum.abs().square())

    def emphasised(self, waveform: Tensor) -> Tensor:
        """Waveforms [B, N] to [B, N - 1], high frequencies raised."""
        return waveform[:, 1:] - _PREEMPHASIS * waveform[:, :-1]

    def scaled_log(self, power: Tensor) -> Tensor:
        """Power [B, n_fft / 2 + 1, T] to features [B, 1, F, T]."""
        mel = self.banks @ power
        return ((mel + _FLOOR).log() + _SHIFT).unsqueeze(1) / _SCALE
