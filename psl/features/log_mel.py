"""Waveform [B, N] -> log-mel [B, 1, F, T].

Owns the features. An example's features never depend on its batch.
"""

from __future__ import annotations

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from psl.config import STRICT
from psl.features._torchaudio import torchaudio


@dataclass(frozen=True, config=STRICT)
class LogMelConfig:
    """The log-mel front end; the defaults are upstream's."""

    sample_rate: int = Field(default=16000, gt=0)
    """Rate the audio must have, Hz."""
    n_fft: int = Field(default=512, gt=0)
    """FFT size and window length, samples."""
    hop_length: int = Field(default=160, gt=0)
    """Distance of STFT frames, samples."""
    n_mels: int = Field(default=64, gt=0)
    """Mel bands (F)."""
    f_min: float = Field(default=0.0, ge=0)
    """Lowest frequency, Hz."""
    f_max: float | None = None
    """Highest frequency, Hz; null for half the sample rate."""
    top_db: float = Field(default=120.0, gt=0)
    """Range kept below an example's loudest value, dB."""
    mean_db: float = 0.0
    """Subtracted from the log-mel, dB."""
    std_db: float = Field(default=1.0, gt=0)
    """The log-mel is then divided by this, dB."""

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """STFT frames of waveforms of ``num_samples`` samples (centred frames)."""
        return num_samples // self.hop_length + 1


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


@dataclass(frozen=True, config=STRICT)
class SlaneyLogMelConfig:
    """The front end of PANNs; the defaults are those of its 16 kHz models.

    Its 32 kHz models have n_fft 1024, hop_length 320 and f_max 14000.
    """

    sample_rate: int = Field(default=16000, gt=0)
    """Rate the audio must have, Hz."""
    n_fft: int = Field(default=512, gt=0)
    """FFT size and window length, samples."""
    hop_length: int = Field(default=160, gt=0)
    """Distance of STFT frames, samples."""
    n_mels: int = Field(default=64, gt=0)
    """Mel bands (F)."""
    f_min: float = Field(default=50.0, ge=0)
    """Lowest frequency, Hz."""
    f_max: float = Field(default=8000.0, gt=0)
    """Highest frequency, Hz."""

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """STFT frames of waveforms of ``num_samples`` samples (centred frames)."""
        return num_samples // self.hop_length + 1


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
