"""Audio of any length as a stream of mono int16 blocks at one rate, in bounded memory.

Owns the resampler of a stream (soxr) and the checks of its samples; decoders.py opens
files. What comes out is what load_clip gives for a file that is short enough; at
another rate than the file's, up to the rounding of a resampler that works in blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from shards.audio.decode import to_int16
from shards.audio.decoders import open_recording
from shards.audio.ffmpeg import stream_with_ffmpeg
from shards.audio.pcm import MAX_PEAK
from shards.audio.recording import RATES
from shards.audio.streams import Pipe, Stream
from shards.errors import ShardError

_PCM_BYTES = 1 << 16


def stream_file(
    stream: Stream, *, sample_rate: int
) -> tuple[float | None, Iterator[np.ndarray]]:
    """Length in seconds, if the header tells, and blocks [N] int16 at ``sample_rate``.

    ``stream`` is an open file, seekable. The blocks raise ShardError where the file is
    damaged, and at the end of one that was cut short.
    """
    if not stream.read(1):
        raise ShardError("empty file; copy or fetch it again")
    recording = open_recording(stream)
    return recording.seconds, resample(recording.blocks(), sample_rate)


def stream_pipe(pipe: Pipe, *, sample_rate: int) -> Iterator[np.ndarray]:
    """Blocks [N] int16 at ``sample_rate`` of an audio file that comes in a pipe.

    It is decoded as it comes, so its form must be one that can be read from front to
    back: WAV, FLAC, MP3, Ogg, Matroska; not most MP4.
    """
    return resample(stream_with_ffmpeg(pipe), sample_rate)


def stream_pcm(pipe: Pipe, *, rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """Blocks [N] int16 at ``sample_rate`` of raw mono s16le at ``rate`` Hz in a pipe.

    Raises ShardError if nothing comes.
    """
    if rate not in RATES:
        raise ValueError(f"rate = {rate}; expected {RATES[0]} to {RATES[-1]} Hz")
    return resample(_pcm_blocks(pipe, rate), sample_rate)


def _pcm_blocks(pipe: Pipe, rate: int) -> Iterator[tuple[int, np.ndarray]]:
    rest = b""
    while data := pipe.read(_PCM_BYTES):
        data = rest + data
        end = len(data) - len(data) % 2
        rest = data[end:]
        yield rate, np.frombuffer(data[:end], "<i2").astype(np.float32) / 32768


def resample(
    blocks: Iterable[tuple[int, np.ndarray]], sample_rate: int
) -> Iterator[np.ndarray]:
    """Blocks [N] int16 at ``sample_rate``, of (rate, mono [N] float32) at one rate.

    Raises ShardError for samples that are not finite or far beyond full scale, and if
    there are none.
    """
    stream: soxr.ResampleStream | None = None
    has_samples = False
    for rate, block in blocks:
        if not len(block):
            continue
        _check(block)
        has_samples = True
        if rate != sample_rate:
            if stream is None:
                stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
            block = stream.resample_chunk(block)
        if len(block):
            yield to_int16(block)
    if not has_samples:
        raise ShardError("no audio samples; copy or fetch it again")
    if stream is not None:
        yield to_int16(stream.resample_chunk(np.zeros(0, np.float32), last=True))


def _check(block: np.ndarray) -> None:
    if not np.isfinite(block).all():
        raise ShardError("NaN or infinite samples; repair or remove the file")
    if (peak := float(np.abs(block).max())) > MAX_PEAK:
        raise ShardError(
            f"float samples up to {peak:g}, expected [-1, 1]; divide by full scale"
        )
