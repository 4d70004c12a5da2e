"""The configurations of the front ends, which say what features a model hears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from psl.config import config

if TYPE_CHECKING:
    from torch import Tensor

Rate = Annotated[int, Field(ge=1000, le=1_000_000)]
"""A sample rate, Hz."""
Samples = Annotated[int, Field(ge=1, le=1 << 20)]
"""A length in samples."""
Bands = Annotated[int, Field(ge=1, le=4096)]
"""A number of mel bands."""
Hertz = Annotated[float, Field(ge=0, le=500_000)]
"""A frequency, Hz."""
Offset = Annotated[float, Field(ge=-1e6, le=1e6)]
"""What is subtracted from features."""
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
"""What features are divided by; also a range in dB."""

_FBANK_WINDOW_SECONDS, _FBANK_HOP_SECONDS = 0.025, 0.010


@config
class LogMelConfig:
    """The log-mel front end; the defaults are upstream's."""

    sample_rate: Rate = 16000
    """Rate the audio must have, Hz."""
    n_fft: Samples = 512
    """FFT size and window length, samples."""
    hop_length: Samples = 160
    """Distance of STFT frames, samples."""
    n_mels: Bands = 64
    """Mel bands (F)."""
    f_min: Hertz = 0.0
    """Lowest frequency, Hz."""
    f_max: Hertz | None = None
    """Highest frequency, Hz; null for half the sample rate."""
    top_db: Scale = 120.0
    """Range kept below an example's loudest value, dB."""
    mean_db: Offset = 0.0
    """Subtracted from the log-mel, dB."""
    std_db: Scale = 1.0
    """The log-mel is then divided by this, dB."""

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """STFT frames of waveforms of ``num_samples`` samples."""
        return _centred_frames(num_samples, self.hop_length)


@config
class SlaneyLogMelConfig:
    """The front end of PANNs; the defaults are those of its 16 kHz models.

    Its 32 kHz models have n_fft 1024, hop_length 320 and f_max 14000. It is a class of
    its own since checkpoints record its fields, and those left out have these defaults.
    """

    sample_rate: Rate = 16000
    """Rate the audio must have, Hz."""
    n_fft: Samples = 512
    """FFT size and window length, samples."""
    hop_length: Samples = 160
    """Distance of STFT frames, samples."""
    n_mels: Bands = 64
    """Mel bands (F)."""
    f_min: Hertz = 50.0
    """Lowest frequency, Hz."""
    f_max: Annotated[Hertz, Field(gt=0)] = 8000.0
    """Highest frequency, Hz."""

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """STFT frames of waveforms of ``num_samples`` samples."""
        return _centred_frames(num_samples, self.hop_length)


def _centred_frames(num_samples: Tensor, hop_length: int) -> Tensor:
    """Frames of an STFT that pads both ends with half a window."""
    return num_samples // hop_length + 1


@config
class FbankConfig:
    """25 ms windows every 10 ms; the defaults are those of the published AST."""

    sample_rate: Rate = 16000
    """Rate the audio must have, Hz."""
    n_mels: Annotated[Bands, Field(ge=16)] = 128
    """Mel bands (F)."""
    mean: Offset = -4.2677393
    """Subtracted from the natural logarithm; AudioSet's mean by default."""
    std: Scale = 4.5689974
    """The result is divided by twice this; AudioSet's standard deviation by default."""

    @property
    def window_samples(self) -> int:
        """Length of a window."""
        return int(self.sample_rate * _FBANK_WINDOW_SECONDS)

    @property
    def hop_samples(self) -> int:
        """Distance of windows."""
        return int(self.sample_rate * _FBANK_HOP_SECONDS)

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


@config
class PreemphasisMelConfig:
    """The front end of EfficientAT's networks; the defaults are those of mn10_as."""

    sample_rate: Rate = 32000
    """Rate the audio must have, Hz."""
    n_fft: Samples = 1024
    """FFT size, samples."""
    window_samples: Samples = 800
    """Length of the window, samples; at most n_fft."""
    hop_length: Samples = 320
    """Distance of STFT frames, samples."""
    n_mels: Bands = 128
    """Mel bands (F)."""
    f_min: Hertz = 0.0
    """Lowest frequency, Hz."""
    f_max: Annotated[Hertz, Field(gt=0)] = 15000.0
    """Highest frequency, Hz."""

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """STFT frames of waveforms of ``num_samples`` samples.

        Pre-emphasis takes one sample away.
        """
        return _centred_frames(num_samples - 1, self.hop_length)
