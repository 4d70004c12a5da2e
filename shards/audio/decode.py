"""Any audio source -> mono int16 at one rate.

Owns what part of a source becomes the clip, the limits, the mix of channels to one,
and the resampler (soxr). Sources are files, encoded bytes or PCM arrays.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr

from shards.audio.decoders import open_recording
from shards.audio.pcm import MAX_PEAK, check_full_scale, to_float
from shards.audio.recording import MAX_CHANNELS, RATES, Recording
from shards.errors import ShardError
from shards.format.schema import MAX_CLIP_SECONDS

SUFFIXES = tuple(
    ".wav .flac .ogg .oga .opus .mp3 .mp2 .m4a .aac .amr .webm .mka .mp4 .mkv .mov "
    ".avi .flv .3gp .wma .aif .aiff .aifc .au .snd .caf .w64 .rf64".split()
)
"""File names that are looked at as audio."""

SLACK_SECONDS = 1.0
"""A file at most this much longer than its segment may be the cut segment."""

Source = str | Path | bytes | memoryview
"""A path, or the encoded file itself."""


def load_segment(
    source: Source,
    *,
    start_seconds: float,
    end_seconds: float,
    sample_rate: int,
    is_recording: bool | None = None,
) -> np.ndarray:
    """Samples [N] int16, mono at ``sample_rate``, of one segment of a recording.

    ``is_recording`` tells whether ``source`` is the whole recording, with the segment
    in it, or the segment already cut out; None if its length must tell. Time zero is
    the first sample, as when FFmpeg converts the whole file. Never longer than the
    segment; shorter when the audio is. Channels are averaged.

    Raises ShardError saying what is wrong with the source, with its path if it has one:
    not decodable, cut short, longer than a cut segment, not reaching the segment, or
    of a length that a cut segment and a recording might both have.
    """
    with _opened(source) as recording:
        mono, rate = _read_segment(recording, start_seconds, end_seconds, is_recording)
        pcm = _finish(mono, rate, sample_rate)
    return pcm[: round((end_seconds - start_seconds) * sample_rate)]


def load_clip(
    source: Source, *, sample_rate: int, max_seconds: float = MAX_CLIP_SECONDS
) -> np.ndarray:
    """Samples [N] int16, mono at ``sample_rate``, of all audio in ``source``.

    Channels are averaged. Raises ShardError if it is longer than ``max_seconds``, by
    its header or when decoded, or otherwise unusable; memory stays bounded.
    """
    with _opened(source) as recording:
        mono, rate = _read(recording, 0.0, np.inf, max_seconds)
        return _finish(mono, rate, sample_rate)


def to_mono_int16(samples: np.ndarray, *, rate: int, sample_rate: int) -> np.ndarray:
    """Samples [M] int16, mono at ``sample_rate``, from PCM [N] or [N, channels].

    ``rate`` is that of ``samples`` in Hz. Floats have full scale 1, integers that of
    their type (unsigned ones rest at the middle). Channels are averaged. Raises
    ShardError for anything else, and for values that another full scale would fit,
    rather than guess.
    """
    samples = np.asarray(samples)
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or not 1 <= samples.shape[1] <= MAX_CHANNELS:
        raise ShardError(
            f"samples of shape {list(samples.shape)}, expected [N] or [N, channels] "
            f"with at most {MAX_CHANNELS} channels"
        )
    if rate not in RATES:
        raise ShardError(f"{rate} Hz, expected {RATES[0]} to {RATES[-1]} Hz")
    if len(samples) > MAX_CLIP_SECONDS * rate:
        raise _too_long(len(samples) / rate, MAX_CLIP_SECONDS)
    check_full_scale(samples)
    return _finish(to_float(samples).mean(axis=1), rate, sample_rate)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Recording]:
    """The recording in ``source``; puts its path before the message of a ShardError."""
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            try:
                yield _open(file)
            except ShardError as error:
                raise ShardError(f"{source}: {error}") from None
    else:
        yield _open(io.BytesIO(source))


def _open(stream: BinaryIO) -> Recording:
    if not stream.read(1):
        raise ShardError("empty file; copy or fetch it again")
    return open_recording(stream)


def _read_segment(
    recording: Recording,
    start_seconds: float,
    end_seconds: float,
    is_recording: bool | None,
) -> tuple[np.ndarray, int]:
    wanted_seconds = end_seconds - start_seconds
    if not is_recording:
        if cut := _read_cut(recording, start_seconds, end_seconds, is_recording):
            return cut
        if is_recording is False:
            raise ShardError(
                f"longer than its segment ({wanted_seconds:.2f} s) by more than "
                f"{SLACK_SECONDS:g} s; cut it, or if it is the whole recording, name "
                "it by its id alone (--files-are recordings)"
            )
    least_seconds = min(wanted_seconds, SLACK_SECONDS)
    seconds = recording.seconds
    if seconds is None or seconds >= start_seconds + least_seconds:
        mono, rate = _read(recording, start_seconds, end_seconds, MAX_CLIP_SECONDS)
        if len(mono) >= int(least_seconds * rate):
            return mono, rate
        seconds = start_seconds + len(mono) / rate if len(mono) else None
    found = "audio" if seconds is None else f"{seconds:.2f} s of audio"
    raise ShardError(
        f"{found} is neither the segment ({wanted_seconds:.2f} s) nor a recording that "
        f"reaches {start_seconds:.2f} s; cut it or correct the segments CSV"
    )


def _read_cut(
    recording: Recording,
    start_seconds: float,
    end_seconds: float,
    is_recording: bool | None,
) -> tuple[np.ndarray, int] | None:
    """Samples and rate of a recording that is the cut segment; None if it is longer.

    Raises ShardError if ``is_recording`` is None and so short a file may be either.
    """
    wanted_seconds = end_seconds - start_seconds
    longest = wanted_seconds + SLACK_SECONDS
    seconds = recording.seconds
    if seconds is not None and seconds > longest:
        return None
    enough = min(longest, MAX_CLIP_SECONDS + SLACK_SECONDS) + 0.1
    mono, rate = _read(recording, 0.0, enough, enough + SLACK_SECONDS)
    seconds = len(mono) / rate
    if seconds > longest:
        return None
    if min(seconds, wanted_seconds) > MAX_CLIP_SECONDS:
        raise _too_long(seconds, MAX_CLIP_SECONDS)
    if is_recording is None and not _is_cut(seconds, start_seconds, end_seconds):
        raise ShardError(
            f"{seconds:.2f} s of audio may be the segment from {start_seconds:.2f} to "
            f"{end_seconds:.2f} s or a recording that it lies in; say which: "
            "--files-are segments or --files-are recordings, or name the segment "
            f"<id>_{start_seconds:.3f}_{end_seconds:.3f}"
        )
    return mono[: round(wanted_seconds * rate)], rate


def _is_cut(seconds: float, start_seconds: float, end_seconds: float) -> bool:
    """Whether a file that is short enough for the segment can be nothing else.

    As a recording it would begin with the segment, or end before it; and it is about as
    long as the segment, which a recording that ends before it rarely is.
    """
    is_as_long = seconds >= end_seconds - start_seconds - SLACK_SECONDS
    return start_seconds == 0 or (seconds <= start_seconds and is_as_long)


def _read(
    recording: Recording, start_seconds: float, end_seconds: float, max_seconds: float
) -> tuple[np.ndarray, int]:
    """Samples and rate of a part, or ShardError if that is longer than allowed."""
    if recording.seconds is not None:
        seconds = min(end_seconds, recording.seconds) - start_seconds
        if seconds > max_seconds:
            raise _too_long(seconds, max_seconds)
    stop_seconds = min(end_seconds, start_seconds + max_seconds + SLACK_SECONDS)
    mono, rate = recording.read(start_seconds, stop_seconds)
    if len(mono) > max_seconds * rate:
        raise _too_long(len(mono) / rate, max_seconds)
    return mono, rate


def _too_long(seconds: float, max_seconds: float) -> ShardError:
    return ShardError(
        f"{seconds:.0f} s of audio or more, and a clip may have {max_seconds:g} s; cut "
        "the file, or list segments of it in a CSV"
    )


def _finish(mono: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Checked, resampled and rounded to int16."""
    if not len(mono):
        raise ShardError("no audio samples; copy or fetch it again")
    if not np.isfinite(mono).all():
        raise ShardError("NaN or infinite samples; repair or remove the file")
    if (peak := float(np.abs(mono).max())) > MAX_PEAK:
        raise ShardError(
            f"float samples up to {peak:g}, expected [-1, 1]; divide by full scale"
        )
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return to_int16(mono)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """int16 PCM from floats in [-1, 1); what lies outside is clipped."""
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)
