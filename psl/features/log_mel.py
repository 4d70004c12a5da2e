"""Waveform [B, N] -> log-mel [B, 1, F, T]: window, STFT, mel product, decibels.

Owns the features; an example's never depend on its batch. The same bits as
torchaudio's MelSpectrogram and AmplitudeToDB, in which torch.compile breaks the graph
(torchaudio 2.11 asks torch.jit for the type of an argument: 5 breaks, 2026-11-29).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features.config import LogMelConfig, SlaneyLogMelConfig
from psl.features.mel_tables import mel_bands

DECIBEL_FLOOR = 1e-10
"""Least power whose logarithm is taken, as in torchaudio's AmplitudeToDB."""


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


def check_length(waveform: Tensor, least: int) -> None:
    """ValueError if waveforms [B, N] have fewer than ``least`` samples.

    In a graph that is compiled or exported there is no check.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    if waveform.shape[1] < least:
        raise ValueError(
            f"waveforms have {waveform.shape[1]} samples, expected {least} or more, so "
            "that half an n_fft of the front end fits in; use longer chunks "
            "(chunk_seconds), or a smaller n_fft"
        )


class MelSpectrogram(nn.Module):
    """Waveforms [B, N] to power in mel bands [B, T, F].

    Its buffers are named as upstream's, ``spectrogram.window`` and ``mel_scale.fb``.
    """

    def __init__(self, spectrogram: nn.Module, mel_scale: nn.Module) -> None:
        """Of waveforms to power [B, T, n_fft / 2 + 1], and of that to mel bands."""
        super().__init__()
        self.spectrogram, self.mel_scale = spectrogram, mel_scale

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, N] float32 in [-1, 1] to [B, T, F]."""
        mel: Tensor = self.mel_scale(self.spectrogram(waveform))
        return mel


class _Spectrogram(nn.Module):
    """Waveforms [B, N] to power [B, T, n_fft / 2 + 1].

    Frame t is centred at sample t * hop; the ends of the waveform are reflected.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self._n_fft, self._hop_length = n_fft, hop_length
        with torch.device("cpu"):  # tables, to be had also for a model on meta
            self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, waveform: Tensor) -> Tensor:
        check_length(waveform, self._n_fft // 2 + 1)
        spectrum = torch.stft(
            waveform,
            self._n_fft,
            hop_length=self._hop_length,
            window=self.window,
            return_complex=True,
        )
        return spectrum.abs().square().transpose(1, 2)


class _MelScale(nn.Module):
    """[B, T, n_fft / 2 + 1] to [B, T, F]."""

    fb: Tensor

    def __init__(self, bands: Tensor) -> None:
        super().__init__()
        self.register_buffer("fb", bands)

    def forward(self, power: Tensor) -> Tensor:
        # one product for each example, or its sums would depend on the batch's size
        return torch.bmm(power, self.fb.expand(len(power), -1, -1))


class Decibels(nn.Module):
    """Power in mel bands [B, T, F] to log-mel [B, 1, F, T], dB; holds no state."""

    def __init__(
        self, top_db: float | None = None, mean_db: float = 0.0, std_db: float = 1.0
    ) -> None:
        """``top_db`` below an example's loudest value is the floor; None for none.

        Upstream takes the loudest value of a batch. The result is (dB - ``mean_db``) /
        ``std_db``.
        """
        super().__init__()
        self._top_db, self._mean_db, self._std_db = top_db, mean_db, std_db

    def forward(self, mel: Tensor) -> Tensor:
        """[B, T, F] to [B, 1, F, T]."""
        decibels = 10 * mel.clamp(min=DECIBEL_FLOOR).log10()
        if self._top_db is not None:
            floor = decibels.amax(dim=(1, 2), keepdim=True) - self._top_db
            decibels = torch.maximum(decibels, floor)
        normal = (decibels - self._mean_db) / self._std_db
        return normal.transpose(1, 2).unsqueeze(1)


def log_mel(config: LogMelConfig | SlaneyLogMelConfig) -> nn.Sequential:
    """A module from waveforms [B, N] in [-1, 1], N > n_fft / 2, to [B, 1, F, T], dB.

    The front end of PANNs has no floor but 1e-10, and no normalisation.
    """
    mel = MelSpectrogram(
        _Spectrogram(config.n_fft, config.hop_length), _MelScale(mel_bands(config))
    )
    if isinstance(config, SlaneyLogMelConfig):
        return nn.Sequential(mel, Decibels())
    return nn.Sequential(mel, Decibels(config.top_db, config.mean_db, config.std_db))
