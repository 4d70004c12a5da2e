"""Waveform [B, N] -> Kaldi's log filter bank [B, 1, F, T], the front end of AST.

Owns the features. An example's features never depend on its batch. The same as
torchaudio.compliance.kaldi.fbank with a Hann window and no dither, which takes one
waveform at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features._torchaudio import import_kaldi
from psl.features.config import FbankConfig

PREEMPHASIS, _LOWEST_HZ = 0.97, 20.0


class Fbank(nn.Module):
    """Kaldi's log filter bank, normalised; holds its tables and no weights."""

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
        """Waveforms [B, N] in [-1, 1] to [B, 1, F, T] float32."""
        config = self._config
        frames = waveform.unfold(1, config.window_samples, config.hop_samples)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        frames = (frames - PREEMPHASIS * before) * self.window
        power = torch.fft.rfft(frames, self._n_fft).abs().square()
        log_mel = (power @ self.banks).clamp(min=torch.finfo(torch.float32).eps).log()
        normal = (log_mel - config.mean) / (2 * config.std)
        return normal.transpose(1, 2).unsqueeze(1)
