"""Waveform [B, N] -> normalised log-mel [B, 1, F, T], the front end of EfficientAT.

Owns the features; an example's never depend on its batch. Schmid et al. 2023 (arXiv
2211.04772). In their training the band edges move at random, which is left out here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features._torchaudio import import_kaldi
from psl.features.config import PreemphasisMelConfig

PREEMPHASIS = 0.97
FLOOR, SHIFT, SCALE = 1e-5, 4.5, 5.0
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
        with torch.device("cpu"):  # tables, to be had also for a model on meta
            banks, _ = import_kaldi().get_mel_banks(
                config.n_mels,
                config.n_fft,
                float(config.sample_rate),
                config.f_min,
                config.f_max,
                100.0,
                -500.0,
                1.0,
            )
            window = torch.hann_window(config.window_samples, periodic=False)
        # the bands end below the Nyquist frequency, whose bin is missing
        self.register_buffer("banks", nn.functional.pad(banks, (0, 1)), False)
        self.register_buffer("window", window, False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms [B, N] in [-1, 1], N > n_fft / 2, to [B, 1, F, T] float32."""
        config = self._config
        emphasised = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
        spectrum = torch.stft(
            emphasised,
            config.n_fft,
            hop_length=config.hop_length,
            win_length=config.window_samples,
            window=self.window,
            return_complex=True,
        )
        mel = self.banks @ spectrum.abs().square()
        return ((mel + FLOOR).log() + SHIFT).unsqueeze(1) / SCALE
