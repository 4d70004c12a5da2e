"""Clip members <-> mono int16 samples.

Owns the codecs of clips inside shards; decode.py owns audio as people have it.
Members are untrusted: no more is decoded than is asked for.
"""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import soundfile

from shards.audio.chunks import find_wav_data
from shards.audio.decode import load_clip
from shards.audio.sndfile import as_file, read_part
from shards.errors import ShardError
from shards.format.schema import CODECS, MAX_CLIP_SECONDS, SOURCE_CODEC

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
"""Sample rates (Hz) that Opus has."""

OPUS_BITS_PER_SAMPLE = 3
"""Bit rate over sample rate: 48 kbit/s at 16 kHz."""

BARE_WAV_BYTES = 44
"""Header of a WAV member that holds samples and nothing else, as encode() makes it."""


def encode(samples: np.ndarray, *, codec: str, sample_rate: int) -> bytes:
    """A clip member from mono int16 samples [N]; the same bytes every time.

    Raises ValueError if ``codec`` is none of CODECS or has not this sample rate.
    """
    check_codec(codec, sample_rate)
    if codec == "opus":
        return _encode_opus(samples, sample_rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=codec, subtype="PCM_16")
    return buffer.getvalue()


def check_codec(codec: str, sample_rate: int) -> None:
    """ValueError if clips cannot be packed as ``codec`` at ``sample_rate`` (Hz)."""
    if codec not in CODECS:
        raise ValueError(f"codec = {codec!r}; expected one of {', '.join(CODECS)}")
    if codec == "opus" and sample_rate not in OPUS_RATES:
        raise ValueError(
            f"sample_rate = {sample_rate}; opus has {', '.join(map(str, OPUS_RATES))}"
        )


def _encode_opus(samples: np.ndarray, sample_rate: int) -> bytes:
    """Ogg/Opus. By FFmpeg, since libsndfile gives each stream a random number."""
    exact = {"fflags": "+bitexact"}
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg", options=exact) as container:
        track = container.add_stream("libopus", rate=sample_rate)
        track.layout = "mono"
        track.bit_rate = OPUS_BITS_PER_SAMPLE * sample_rate
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        for packet in (*track.encode(frame), *track.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def decode(
    data: bytes | memoryview, *, codec: str, start: int, stop: int, sample_rate: int
) -> np.ndarray:
    """Samples ``start`` to ``stop`` [N] int16, at ``sample_rate``, of a clip member.

    A WAV member costs no copy; of FLAC and Opus only the wanted part is decoded. A
    slice of Opus depends on nothing but the member and its bounds, but may differ from
    the same slice of a longer one by up to about -50 dB of full scale, since a
    predictive codec takes time to settle. A "source" member is decoded whole.

    Raises ShardError if the member is damaged, ends before ``stop``, or is not mono
    16-bit at ``sample_rate`` (except for "source").
    """
    if stop - start > MAX_CLIP_SECONDS * sample_rate:
        raise ShardError(
            f"{stop - start} samples of a clip, expected at most "
            f"{MAX_CLIP_SECONDS * sample_rate:.0f}; pack it in shorter clips"
        )
    if codec == "wav":
        samples = _wav_samples(data, sample_rate)[start:stop]
    elif codec == SOURCE_CODEC:
        samples = load_clip(data, sample_rate=sample_rate)[start:stop]
    else:
        samples = _decode_part(data, start, stop, sample_rate)
    if len(samples) != stop - start:
        raise ShardError(
            f"{len(samples)} samples from {start}, expected {stop - start}; pack this "
            "shard again"
        )
    return samples


_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH")


def _wav_samples(data: bytes | memoryview, sample_rate: int) -> np.ndarray:
    """All samples [N] int16 of a WAV member, without copying."""
    if len(data) < BARE_WAV_BYTES:
        raise ShardError(f"{len(data)} bytes; not a complete WAV file")
    riff, _, wave, fmt, _, kind, channels, rate, _, _, bits = _WAV_HEADER.unpack_from(
        data
    )
    if (riff, wave, fmt) != (b"RIFF", b"WAVE", b"fmt ") or kind != 1 or bits != 16:
        raise ShardError("not 16-bit PCM in WAV, as a wav member must be")
    _check_form(rate, channels, sample_rate)
    position, size = find_wav_data(data)
    size = min(size, len(data) - position)
    return np.frombuffer(data, "<i2", count=size // 2, offset=position)


def is_bare_wav(data: bytes | memoryview, num_samples: int, sample_rate: int) -> bool:
    """Whether a WAV member is a header of BARE_WAV_BYTES and ``num_samples`` samples.

    Raises ShardError as decode() does.
    """
    found = len(_wav_samples(data, sample_rate))  # so the header has 44 bytes at least
    return found == num_samples and len(data) == BARE_WAV_BYTES + 2 * num_samples


def _decode_part(
    data: bytes | memoryview, start: int, stop: int, sample_rate: int
) -> np.ndarray:
    samples = read_part(data, start, stop, sample_rate)
    if samples is not None:
        return samples
    try:
        with soundfile.SoundFile(as_file(data), closefd=False) as stream:
            _check_form(stream.samplerate, stream.channels, sample_rate)
            stream.seek(start)
            return stream.read(stop - start, dtype="int16")
    except soundfile.LibsndfileError as error:
        raise ShardError(error.error_string or "damaged") from None


def _check_form(rate: int, channels: int, sample_rate: int) -> None:
    if (rate, channels) != (sample_rate, 1):
        raise ShardError(
            f"{channels} channels at {rate} Hz, expected 1 at {sample_rate} Hz as the "
            "index says; pack this shard again"
        )
