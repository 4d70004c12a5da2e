"""The tables of the front ends: how much of each Fourier bin is in each mel band.

torchaudio computes them, once for a model; what a forward pass does with them is in the
other modules of this folder, so that torch.compile sees operations of torch alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psl.features._torchaudio import import_kaldi, torchaudio
from psl.features.config import LogMelConfig, SlaneyLogMelConfig


def mel_bands(config: LogMelConfig | SlaneyLogMelConfig) -> Tensor:
    """[n_fft / 2 + 1, F] float32 on the CPU, also for a model on meta.

    HTK's mel scale; Slaney's scale and norm, as librosa has them, for PANNs. Raises
    ValueError if the highest frequency is below the lowest.
    """
    slaney = isinstance(config, SlaneyLogMelConfig)
    f_max = float(config.sample_rate // 2) if config.f_max is None else config.f_max
    if config.f_min > f_max:
        raise ValueError(
            f"front_end.f_min is {config.f_min:g} Hz, expected at most f_max, "
            f"{f_max:g} Hz"
        )
    with torch.device("cpu"):
        bands: Tensor = torchaudio.functional.melscale_fbanks(
            config.n_fft // 2 + 1,
            config.f_min,
            f_max,
            config.n_mels,
            config.sample_rate,
            norm="slaney" if slaney else None,
            mel_scale="slaney" if slaney else "htk",
        )
    return bands


def kaldi_bands(
    n_mels: int, n_fft: int, *, sample_rate: int, f_min: float, f_max: float
) -> Tensor:
    """[F, n_fft / 2 + 1] float32 on the CPU, also for a model on meta.

    ``f_min`` and ``f_max`` in Hz; an ``f_max`` of 0 is the Nyquist frequency.
    """
    no_warp = (100.0, -500.0, 1.0)  # torchaudio's defaults of what is not used
    with torch.device("cpu"):
        bands, _ = import_kaldi().get_mel_banks(
            n_mels, n_fft, float(sample_rate), f_min, f_max, *no_warp
        )
    # the bands end below the Nyquist frequency, whose bin is missing
    return nn.functional.pad(bands, (0, 1))
