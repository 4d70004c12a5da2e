"""Audio bytes: any file -> mono int16 at one rate, and clip members <-> int16.

The only module that knows a codec (libsndfile through soundfile) and the resampler
(soxr).
"""

from __future__ import annotations

import io
import mmap
import struct
from pathlib import Path

import numpy as np
import soundfile
import soxr

from shards.schema import ShardError

CODECS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16")}
"""Member suffix -> libsndfile format and subtype."""

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au")
"""File names that are looked at as audio."""

SLACK_SECONDS = 1.0
"""A file at most this much longer than its segment is taken as the cut segment."""

MAX_CHANNELS = 32


def load_segment(
    path: str | Path,
    *,
    start_seconds: float,
    end_seconds: float,
    sample_rate: int,
    is_recording: bool = False,
) -> np.ndarray:
    """Samples [N] int16, mono at ``sample_rate``, of one segment of a recording.

    ``path`` is either the segment already cut out (no longer than the segment and
    one second) or the whole recording, which is then cut; ``is_recording`` says that it
    can only be the latter, since other segments are in it, too. Never longer than the
    segment; shorter when the audio is. Channels are averaged.

    Raises ShardError saying what is wrong with the file.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise ShardError(f"{path}: empty file; fetch it again")
    _check_riff_length(path)
    try:
        with soundfile.SoundFile(path) as stream:
            samples, rate = _read_segment(
                stream, path, start_seconds, end_seconds, is_recording
            )
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise ShardError(f"{path}: not decodable audio: {reason}") from None
    if not np.isfinite(samples).all():
        raise ShardError(f"{path}: NaN or infinite samples; repair or remove the file")
    mono = samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return to_int16(mono[: round((end_seconds - start_seconds) * sample_rate)])


def _read_segment(
    stream: soundfile.SoundFile,
    path: Path,
    start_seconds: float,
    end_seconds: float,
    is_recording: bool,
) -> tuple[np.ndarray, int]:
    rate, seconds = stream.samplerate, stream.frames / stream.samplerate
    if stream.channels > MAX_CHANNELS:
        raise ShardError(
            f"{path}: {stream.channels} channels, expected at most {MAX_CHANNELS}"
        )
    wanted_seconds = end_seconds - start_seconds
    if is_recording or seconds > wanted_seconds + SLACK_SECONDS:
        if seconds < start_seconds + min(wanted_seconds, SLACK_SECONDS):
            raise ShardError(
                f"{path}: {seconds:.2f} s of audio is neither the segment "
                f"({wanted_seconds:.2f} s) nor a recording that reaches "
                f"{start_seconds:.2f} s; cut it or correct the segments CSV"
            )
        stream.seek(round(start_seconds * rate))
    num_frames = round(wanted_seconds * rate)
    samples = stream.read(num_frames, dtype="float32", always_2d=True)
    if len(samples) == 0:
        raise ShardError(f"{path}: no audio samples; fetch it again")
    return samples, rate


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """int16 PCM from floats in [-1, 1); what lies outside is clipped."""
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)


def _check_riff_length(path: Path) -> None:
    """ShardError if a RIFF file ends before its data chunk says it does.

    libsndfile reads such a file without a word. Sizes of 0 and 0xFFFFFFFF are what
    streaming writers leave: it reads the latter whole, and in the former no sample.
    """
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        if data[:4] != b"RIFF":
            return
        try:
            start, size = find_wav_data(data)
        except ShardError as error:
            raise ShardError(f"{path}: {error}") from None
        left = len(data) - start
    if size not in (0, 0xFFFFFFFF) and size > left:
        raise ShardError(
            f"{path}: truncated: {size} bytes of samples announced, {left} present; "
            "fetch it again"
        )


def find_wav_data(data: bytes | memoryview | mmap.mmap) -> tuple[int, int]:
    """Byte position and announced byte count of the samples of a RIFF WAVE file."""
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        if name == b"data":
            return position + 8, size
        position += 8 + size + size % 2
    raise ShardError("no data chunk; not a complete WAV file")


def encode(samples: np.ndarray, *, codec: str, sample_rate: int) -> bytes:
    """A clip member from mono int16 samples [N]."""
    format_, subtype = CODECS[codec]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=format_, subtype=subtype)
    return buffer.getvalue()


def decode(
    data: bytes | memoryview, *, codec: str, start: int, stop: int
) -> np.ndarray:
    """Samples ``start`` to ``stop`` [N] int16 of a clip member.

    A WAV member costs no copy; of a FLAC member only the wanted part is decoded.
    Raises ShardError if the member is damaged or ends before ``stop``.
    """
    if codec == "wav":
        position, size = find_wav_data(data)
        size = min(size, len(data) - position)
        samples = np.frombuffer(data, "<i2", count=size // 2, offset=position)
        samples = samples[start:stop]
    else:
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as stream:
                stream.seek(start)
                samples = stream.read(stop - start, dtype="int16")
        except soundfile.LibsndfileError as error:
            raise ShardError(error.error_string) from None
    if len(samples) != stop - start:
        raise ShardError(
            f"{len(samples)} samples from {start}, expected {stop - start}; pack this "
            "shard again"
        )
    return samples
