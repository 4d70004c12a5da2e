"""The front ends: the same features as torchaudio's, in one graph of torch.compile."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from psl.features._torchaudio import import_kaldi, torchaudio
from psl.features.config import (
    FbankConfig,
    LogMelConfig,
    PreemphasisMelConfig,
    SlaneyLogMelConfig,
)
from psl.features.fbank import Fbank
from psl.features.log_mel import log_mel
from psl.features.preemphasis_mel import PreemphasisMel

ULP_OF_100_DB = 2.0**-17
"""Distance of neighbouring float32 numbers from 64 to 128."""
LOG_MELS: list[Any] = [
    LogMelConfig(),
    LogMelConfig(n_fft=1024, hop_length=320, n_mels=32, std_db=20.0),
    LogMelConfig(sample_rate=32000, n_fft=800, f_min=50.0, f_max=14000.0),
    LogMelConfig(top_db=80.0, mean_db=-30.0),
    SlaneyLogMelConfig(),
    SlaneyLogMelConfig(
        sample_rate=32000, n_fft=1024, hop_length=320, f_max=14000.0
    ),  # PANNs at 32 kHz
]
FRONT_ENDS: list[nn.Module] = [
    log_mel(LogMelConfig()),
    log_mel(SlaneyLogMelConfig()),
    Fbank(FbankConfig()),
    PreemphasisMel(PreemphasisMelConfig()),
]


def sounds(num_samples: int = 20123) -> Tensor:
    """Noise, a faint tone after silence, and silence: [3, N]."""
    torch.manual_seed(0)
    waveform = 0.1 * torch.randn(3, num_samples)
    time = torch.arange(num_samples)
    waveform[1] = 1e-4 * torch.sin(0.3 * time) * (time > num_samples // 2)
    waveform[2] = 0
    return waveform


def of_torchaudio(config: Any, waveform: Tensor) -> Tensor:
    """[B, 1, F, T] by torchaudio's own transforms."""
    slaney = isinstance(config, SlaneyLogMelConfig)
    scale: dict[str, Any] = {"norm": "slaney", "mel_scale": "slaney"} if slaney else {}
    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
        f_min=config.f_min,
        f_max=config.f_max,
        **scale,
    )
    top_db = None if slaney else config.top_db
    decibels = torchaudio.transforms.AmplitudeToDB(top_db=top_db)
    # with a channel, so that top_db is of each example
    features: Tensor = decibels(mel(waveform.unsqueeze(1)))
    return features if slaney else (features - config.mean_db) / config.std_db


@pytest.mark.parametrize("config", LOG_MELS)
def test_log_mels_are_those_of_torchaudio(config: Any) -> None:
    """Weights trained on torchaudio's features, such as upstream's, would hear others.

    To the last bit of the loudest and faintest values, where it was measured.
    """
    waveform = sounds()
    ours, theirs = log_mel(config)(waveform), of_torchaudio(config, waveform)
    assert ours.shape == theirs.shape == (3, 1, config.n_mels, ours.shape[3])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ULP_OF_100_DB)


@pytest.mark.parametrize("n_mels", [64, 128])
def test_kaldi_s_features_are_those_of_torchaudio_at_other_rates(n_mels: int) -> None:
    """AST at 32 kHz or with other bands would see patches of another spectrum."""
    waveform = sounds()[:1]
    config = FbankConfig(sample_rate=32000, n_mels=n_mels, mean=0.0, std=0.5)
    theirs = import_kaldi().fbank(
        waveform,
        sample_frequency=32000,
        window_type="hanning",
        num_mel_bins=n_mels,
    )
    ours = Fbank(config)(waveform)[0, 0].T
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-4)


def test_the_front_end_of_efficientat_is_made_of_torchaudio_s_parts() -> None:
    """Published mn weights would hear features that they were not trained on."""
    waveform, config = sounds(), PreemphasisMelConfig()
    spectrogram = torchaudio.transforms.Spectrogram(
        config.n_fft,
        win_length=config.window_samples,
        hop_length=config.hop_length,
        window_fn=lambda size: torch.hann_window(size, periodic=False),
    )
    emphasised = torchaudio.functional.preemphasis(waveform, 0.97)[:, 1:]
    bands, _ = import_kaldi().get_mel_banks(
        128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0
    )
    mel = bands @ spectrogram(emphasised)[:, :-1]  # no band has the Nyquist frequency
    theirs = (torch.log(mel + 1e-5) + 4.5) / 5
    ours = PreemphasisMel(config)(waveform)[:, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=lambda f: type(f).__name__)
def test_a_compiled_front_end_is_one_graph_and_computes_the_same(
    front_end: nn.Module,
) -> None:
    """Each break of the graph costs a compiled step time, and forbids CUDA graphs."""
    torch.compiler.reset()
    waveform = sounds(8000)
    compiled = torch.compile(front_end, fullgraph=True, backend="aot_eager")
    found = compiled(waveform)
    torch.testing.assert_close(found, front_end(waveform), atol=2e-4, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=lambda f: type(f).__name__)
def test_inductor_computes_the_same_features(front_end: nn.Module) -> None:
    """Compiled training would hear other sounds; by the C++ compiler, a minute each."""
    torch.compiler.reset()
    waveform = sounds(8000)
    compiled = torch.compile(front_end, fullgraph=True)
    with warnings.catch_warnings():  # complex numbers are left to torch itself
        warnings.filterwarnings("ignore", message="Torchinductor does not support")
        found = compiled(waveform)
    torch.testing.assert_close(found, front_end(waveform), atol=2e-4, rtol=1e-5)


def test_a_front_end_makes_its_tables_on_the_cpu_also_for_a_model_on_meta() -> None:
    """A model opened on meta and filled with weights would have empty tables."""
    with torch.device("meta"):
        built = [
            log_mel(LogMelConfig()),
            log_mel(SlaneyLogMelConfig()),
            Fbank(FbankConfig()),
            PreemphasisMel(PreemphasisMelConfig()),
        ]
    for front_end in built:
        devices = {buffer.device.type for buffer in front_end.buffers()}
        assert devices == {"cpu"}


def test_bands_that_end_before_they_begin_are_refused() -> None:
    """A typo in a frequency would train on empty features."""
    config = LogMelConfig(f_min=9000.0)
    with pytest.raises(ValueError, match="f_min is 9000 Hz, .* f_max, 8000 Hz"):
        log_mel(config)
