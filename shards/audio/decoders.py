"""An audio file in any form -> mono float samples at its own rate.

Owns the two decoders, libsndfile (through soundfile) and FFmpeg (through PyAV), and
which of them reads what. Files are untrusted: only listed formats and codecs are
opened, nothing but the given bytes is read, and no more is decoded than is asked for.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
import soundfile
from av import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from shards.audio.containers import check_whole, has_mp3_length, ogg_serials
from shards.errors import ShardError

MAX_CHANNELS = 32
RATES = range(1000, 768001)
"""Sample rates in Hz that are taken; others are forged or not audio."""

MAX_DECODED = 1 << 26
"""Samples of one channel decoded at most: 256 MiB; a forged rate makes seconds cheap.
"""

_BLOCK = 1 << 16

_PREROLL_SECONDS = 1.0
"""Decoded ahead of a cut and dropped. Right after a seek libsndfile gave wrong samples
of Vorbis in 3 of 100 cuts (1.2.2, 2026-11-22), and predictive codecs settle first."""

_MP3_SLACK = 2 * 1152
"""Samples an MP3 may fall short of its header: encoders count it as a frame or not."""

_SNDFILE_MAGIC = (
    *(b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"caff", b"fLaC"),
    *(b"OggS", b"ID3"),
)

_MAY_HOLD_ANYTHING = (b"RIFF", b"OggS", b"caff", b"ID3")
"""Containers of which libsndfile knows a few codecs; FFmpeg is asked for the others."""

_FORMATS = (
    "mov,matroska,asf,avi,flv,mpegts,mpeg,aac,ac3,eac3,amr,mp3,ogg,flac,wav,caf,wv,ape"
)
_INDEXED = ("mov", "matroska", "asf")
"""Formats in which FFmpeg seeks by an index, not by an estimate."""

_CODECS = (
    "aac,aac_latm,ac3,ac3_fixed,eac3,alac,amrnb,amrwb,ape,flac,mp1,mp1float,mp2,"
    "mp2float,mp3,mp3float,opus,libopus,vorbis,speex,libspeex,tta,wavpack,wmav1,wmav2,"
    "wmapro,wmalossless,adpcm_ima_wav,adpcm_ima_qt,adpcm_ms,adpcm_swf,pcm_alaw,"
    "pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,"
    "pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be"
)


@dataclass(frozen=True)
class Recording:
    """An open audio file."""

    seconds: float | None
    """Length its header gives; None if only decoding can tell."""
    read: Callable[[float, float], tuple[np.ndarray, int]]
    """(start, stop) in seconds from the first sample -> mono samples [N] float32 and
    their rate in Hz; fewer where the recording ends. May be called again."""


class _SndfileStream:
    """A stream that says -1 after a seek to no place, as lseek does.

    soundfile calls it from C, where an exception is printed to stderr and lost: damaged
    headers, by which libsndfile seeks, would fill the log of a packing.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.read = stream.read
        self._stream = stream
        self._is_lost = False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        """Go there; ``tell`` says whether that worked."""
        try:
            self._stream.seek(offset, whence)
        except (OSError, ValueError):  # before the beginning, of a file or of bytes
            self._is_lost = True
        else:
            self._is_lost = False

    def tell(self) -> int:
        """Position in bytes, or -1 if the last seek failed."""
        return -1 if self._is_lost else self._stream.tell()


def open_recording(stream: BinaryIO) -> Recording:
    """The audio in a seekable ``stream``, which must stay open.

    Chosen by content, never by name. Of several tracks the one FFmpeg takes for best.
    Raises ShardError if it is no audio, or cut short as far as that can be known.
    """
    check_whole(stream)
    stream.seek(0)
    head = stream.read(4)
    if not _is_for_sndfile(stream, head):
        return Recording(None, lambda start, stop: _read_av(stream, start, stop))
    is_counted_mp3 = has_mp3_length(stream)
    stream.seek(0)
    try:
        sound = soundfile.SoundFile(_SndfileStream(stream))
    except soundfile.LibsndfileError as error:
        if head.startswith(_MAY_HOLD_ANYTHING):
            return Recording(None, lambda start, stop: _read_av(stream, start, stop))
        raise _not_decodable(error.error_string) from None
    return _sndfile_recording(sound, stream, is_counted_mp3)


def _is_for_sndfile(stream: BinaryIO, head: bytes) -> bool:
    if head == b"OggS" and len(ogg_serials(stream)) > 1:
        return False  # libsndfile stops silently after the first of chained streams
    is_mpeg_audio = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
    is_mp3 = is_mpeg_audio and head[1] & 0x06 != 0  # 0 there is AAC in ADTS
    return is_mp3 or head.startswith(_SNDFILE_MAGIC)


def _not_decodable(reason: str) -> ShardError:
    return ShardError(f"not decodable audio: {reason.rstrip('.') or 'damaged'}")


def _check_sound(rate: int, channels: int) -> None:
    if channels > MAX_CHANNELS:
        raise ShardError(f"{channels} channels, expected at most {MAX_CHANNELS}")
    if rate not in RATES:
        raise ShardError(f"{rate} Hz, expected {RATES[0]} to {RATES[-1]} Hz")


def _sndfile_recording(
    sound: soundfile.SoundFile, stream: BinaryIO, is_counted_mp3: bool
) -> Recording:
    rate, announced = sound.samplerate, sound.frames
    _check_sound(rate, sound.channels)
    if announced > 1 << 62:  # FLAC that was streamed; libsndfile trips over its end
        return Recording(None, lambda start, stop: _read_av(stream, start, stop))
    slack = 0
    if sound.subtype.startswith("MPEG"):  # without its header, an estimate
        slack = _MP3_SLACK if is_counted_mp3 else announced

    def read(start_seconds: float, stop_seconds: float) -> tuple[np.ndarray, int]:
        start, stop = _bounds(start_seconds, stop_seconds, rate)
        stop = min(stop, announced)
        try:
            mono = _cut(_sndfile_blocks(sound, start), start, stop)
        except soundfile.LibsndfileError as error:
            raise _not_decodable(error.error_string) from None
        if len(mono) + slack < stop - start:
            raise ShardError(
                f"truncated or damaged: {len(mono)} of {stop - start} samples can be "
                "decoded; fetch it again"
            )
        return mono, rate

    return Recording(announced / rate, read)


def _sndfile_blocks(
    sound: soundfile.SoundFile, start: int
) -> Iterator[tuple[int, np.ndarray]]:
    position = max(0, start - round(_PREROLL_SECONDS * sound.samplerate))
    sound.seek(position)
    while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
        yield position, block.mean(axis=1)
        position += len(block)


def _bounds(start_seconds: float, stop_seconds: float, rate: int) -> tuple[int, int]:
    start = round(start_seconds * rate)
    return start, min(round(stop_seconds * rate), start + MAX_DECODED + 1)


def _cut(blocks: Iterator[tuple[int, np.ndarray]], start: int, stop: int) -> np.ndarray:
    """Samples ``start`` to ``stop`` from blocks that each tell their position."""
    kept = [np.zeros(0, np.float32)]
    for position, block in blocks:
        kept.append(block[max(0, start - position) : max(0, stop - position)])
        if position + len(block) >= stop:
            break
    mono = np.concatenate(kept)
    if len(mono) > MAX_DECODED:
        raise ShardError(
            f"decodes to more than {MAX_DECODED} samples a channel; cut it first"
        )
    return mono


def _read_av(
    stream: BinaryIO, start_seconds: float, stop_seconds: float
) -> tuple[np.ndarray, int]:
    options = {"format_whitelist": _FORMATS, "codec_whitelist": _CODECS}
    stream.seek(0)
    try:
        with av.open(stream, "r", options=options) as container:
            track = container.streams.best("audio")
            if not isinstance(track, AudioStream):
                raise ShardError("holds no audio, only other media")
            first = next(container.decode(track), None)
            if first is None:
                raise ShardError("no audio samples; fetch it again")
            rate = first.sample_rate
            start, stop = _bounds(start_seconds, stop_seconds, rate)
            return _cut(_av_blocks(container, track, first, start), start, stop), rate
    except av.FFmpegError as error:
        raise _not_decodable(error.strerror or "ends too early") from None


def _av_blocks(
    container: InputContainer, track: AudioStream, first: AudioFrame, start: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Position and mono samples of each frame; the first at ``start`` or before."""
    rate, position = first.sample_rate, 0
    ahead = start - round(_PREROLL_SECONDS * rate)
    if ahead > first.samples and container.format.name.startswith(_INDEXED):
        first, position = _seek(container, track, first, ahead)
    for frame in itertools.chain([first], container.decode(track)):
        if frame.sample_rate != rate:
            raise ShardError(f"changes from {rate} to {frame.sample_rate} Hz; cut it")
        mono = _mono(frame)
        yield position, mono
        position += len(mono)


def _seek(
    container: InputContainer, track: AudioStream, first: AudioFrame, target: int
) -> tuple[AudioFrame, int]:
    """The frame that holds sample ``target``, or one before it, and its position.

    The position is the frame's time stamp less that of the ``first`` frame, exact to
    the clock of the container (WebM: 1 ms).
    """
    rate, origin = first.sample_rate, first.time
    if origin is not None:
        container.seek(round((origin + target / rate) * av.time_base))
        frame = next(container.decode(track), None)
        if frame is not None and frame.time is not None:
            position = round((frame.time - origin) * rate)
            if 0 <= position <= target:
                return frame, position
    container.seek(0)  # no usable index, or past the end
    return next(container.decode(track)), 0


def _mono(frame: AudioFrame) -> np.ndarray:
    channels = len(frame.layout.channels)
    _check_sound(frame.sample_rate, channels)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    return to_float(samples).mean(axis=0)


def to_float(samples: np.ndarray) -> np.ndarray:
    """float32 of the same shape, full scale 1, from PCM of any common dtype.

    Raises ShardError for dtypes whose full scale is a guess: 64-bit integers, bool...
    """
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            return samples.astype(np.float32, copy=False)
    if kind not in "iu" or size > 4:
        raise ShardError(
            f"samples of type {samples.dtype}, whose full scale cannot be known; "
            "expected floats in [-1, 1] or integers of 8, 16 or 32 bits"
        )
    full_scale = 2.0 ** (8 * size - 1)
    offset = full_scale if kind == "u" else 0.0
    return ((samples - np.float64(offset)) / full_scale).astype(np.float32)
