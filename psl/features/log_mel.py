"""Waveform [B, N] -> log-mel [B, 1, F, T].

Owns the features. An example's features never depend on its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features._torchaudio import torchaudio
from psl.features.config import LogMelConfig, SlaneyLogMelConfig


class _Normalise(nn.Module):
    """(x - mean_db) / std_db; holds no state."""

    def __init__(self, mean_db: float, std_db: float) -> None:
        super().__init__()
        self.mean_db, self.std_db = mean_db, std_db

    def forward(self, log_mel: Tensor) -> Tensor:
        return (log_mel - self.mean_db) / self.std_db


def float_samples(waveform: Tensor) -> Tensor:
    """Waveforms [B, N] as float32.

    Raises ValueError for another shape, and for integers: what is their full scale?
    """
    if waveform.dim() != 2 or not waveform.is_floating_point():
        found = f"{waveform.dtype} {list(waveform.shape)}"
        raise ValueError(
            f"waveforms are {found}, expected floats [B, N] in [-1, 1]; divide int16 "
            "by 32768, and give a single waveform as waveform[None]"
        )
    return waveform.float()


def log_mel(config: LogMelConfig) -> nn.Sequential:
    """A module from waveforms [B, 1, N] in [-1, 1] to log-mel [B, 1, F, T], dB.

    Its buffers are named as upstream's, ``0.spectrogram.window`` and
    ``0.mel_scale.fb``. The channel axis makes AmplitudeToDB take ``top_db`` per
    example; upstream gives it [B, F, T], which takes it per batch.
    """
    with torch.device("cpu"):  # tables, to be had also for a model on meta
        return nn.Sequential(
            torchaudio.transforms.MelSpectrogram(
                sample_rate=config.sample_rate,
                n_fft=config.n_fft,
                hop_length=config.hop_length,
                n_mels=config.n_mels,
                f_min=config.f_min,
                f_max=config.f_max,
            ),
            torchaudio.transforms.AmplitudeToDB(top_db=config.top_db),
            _Normalise(config.mean_db, config.std_db),
        )


def slaney_log_mel(config: SlaneyLogMelConfig) -> nn.Sequential:
    """A module from waveforms [B, 1, N] in [-1, 1] to log-mel [B, 1, F, T], dB.

    Slaney's mel scale and norm, as librosa has them; no floor but 1e-10.
    """
    with torch.device("cpu"):  # tables, to be had also for a model on meta
        return nn.Sequential(
            torchaudio.transforms.MelSpectrogram(
                sample_rate=config.sample_rate,
                n_fft=config.n_fft,
                hop_length=config.hop_length,
                n_mels=config.n_mels,
                f_min=config.f_min,
                f_max=config.f_max,
                norm="slaney",
                mel_scale="slaney",
            ),
            torchaudio.transforms.AmplitudeToDB(top_db=None),
        )
