"""An audio file in any form -> mono float samples at its own rate.

Owns which of the two decoders reads what: libsndfile (through soundfile), which seeks
fast and exactly, or FFmpeg (ffmpeg.py), which reads the rest. One principle: what the
decoder finds is true, and a header only ends a file before that if it can be believed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import soundfile

from shards.audio.chunks import find_repairs
from shards.audio.containers import check_whole
from shards.audio.ffmpeg import read_with_ffmpeg, stream_with_ffmpeg
from shards.audio.frames import count_flac_samples, read_mp3_header
from shards.audio.ogg import OggPages, read_pages
from shards.audio.pcm import check_32_bit_file
from shards.audio.recording import (
    NOT_STATED,
    PREROLL_SECONDS,
    Blocks,
    End,
    Recording,
    bounds,
    check_sound,
    cut,
    not_decodable,
    whole,
)
from shards.audio.streams import RepairedStream, Stream
from shards.errors import ShardError

_BLOCK = 1 << 16

_MP3_SLACK = 2 * 1152
"""Samples an MP3 may fall short of its header: encoders count it as a frame or not."""

_SNDFILE_MAGIC = tuple(b"RIFF RIFX RF64 riff FORM .snd caff fLaC".split())

_MAY_HOLD_ANYTHING = (b"RIFF", b"OggS", b"caff", b"RF64")
"""Containers of which libsndfile knows a few codecs; FFmpeg is asked for the others."""

_OGG_SLACK_SECONDS = 0.1
"""Silence that Opus begins with is counted by pages, and not by libsndfile."""

_OPUS_CLOCK = 48000
"""Hz in which Ogg pages of Opus count, whatever the rate of the audio."""


class _SndfileStream:
    """A stream that says -1 after a seek to no place, as lseek does.

    soundfile calls it from C, where an exception is printed to stderr and lost: damaged
    headers, by which libsndfile seeks, would fill the log of a packing.
    """

    def __init__(self, stream: Stream) -> None:
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


def open_recording(stream: Stream) -> Recording:
    """The audio in a seekable ``stream``, which must stay open.

    Chosen by content, never by name. Of several tracks the one FFmpeg takes for best.
    Raises ShardError if it is not audio, or cut short as far as that can be known.
    """
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(64)
    if head.startswith(b"OggS"):
        return _open_ogg(stream, length)
    if repairs := find_repairs(stream, head, length):
        stream = RepairedStream(stream, repairs)
    check_whole(stream)
    flac = count_flac_samples(stream) if head.startswith((b"fLaC", b"ID3")) else None
    if flac is not None:
        stated, found = flac
        if not stated or found > stated:
            return _with_ffmpeg(stream, End(stated))
    elif not head.startswith(_SNDFILE_MAGIC):
        return _open_other(stream)
    sound = _open_sound(stream, head)
    return _with_ffmpeg(stream) if sound is None else _with_sndfile(sound, stream)


def _with_ffmpeg(stream: Stream, end: End = NOT_STATED) -> Recording:
    return Recording(
        None,
        lambda start, stop: read_with_ffmpeg(stream, start, stop, end),
        lambda: stream_with_ffmpeg(stream, end),
    )


def _open_other(stream: Stream) -> Recording:
    """MP3 or a container that only FFmpeg knows.

    FFmpeg drops padding where the header of an MP3 says that the file ends, even if
    more frames follow there; so it does not get to see that number.
    """
    header = read_mp3_header(stream)
    if header is None:
        return _with_ffmpeg(stream)
    hidden = RepairedStream(stream, {header.field: bytes(4)})
    return _with_ffmpeg(hidden, End(header.num_samples, _MP3_SLACK, header.padding))


def _open_ogg(stream: Stream, length: int) -> Recording:
    """By libsndfile only if it will read all that is there.

    It stops silently after the first of chained streams, and where the last page says.
    """
    pages = read_pages(stream, length)
    if pages.num_streams > 1 or pages.repairs:
        return _with_ffmpeg(RepairedStream(stream, pages.repairs))
    sound = _open_sound(stream, b"OggS")
    if sound is None or not _agrees(sound, pages):
        return _with_ffmpeg(stream)
    return _with_sndfile(sound, stream)


def _agrees(sound: soundfile.SoundFile, pages: OggPages) -> bool:
    """Whether libsndfile and the last page give about the same length."""
    clock = _OPUS_CLOCK if sound.subtype == "OPUS" else sound.samplerate
    seconds = sound.frames / sound.samplerate
    return abs(seconds - pages.last_granule / clock) < _OGG_SLACK_SECONDS


def _open_sound(stream: Stream, head: bytes) -> soundfile.SoundFile | None:
    """The file as libsndfile opens it; None if FFmpeg is to read it."""
    stream.seek(0)
    try:
        sound = soundfile.SoundFile(_SndfileStream(stream))
    except soundfile.LibsndfileError as error:
        if head.startswith(_MAY_HOLD_ANYTHING):
            return None
        raise not_decodable(error.error_string) from None
    # of MP3, libsndfile believes any length, and prints what it thinks of the file
    return None if sound.subtype.startswith("MPEG") else sound


def _with_sndfile(sound: soundfile.SoundFile, stream: Stream) -> Recording:
    rate, announced = sound.samplerate, sound.frames
    check_sound(rate, sound.channels)

    def read(start_seconds: float, stop_seconds: float) -> tuple[np.ndarray, int]:
        start, stop = bounds(start_seconds, stop_seconds, rate)
        try:
            blocks = _blocks(sound if sound.seekable() else _again(stream), start)
            mono = cut(blocks, start, min(stop, announced), End(announced))
        except soundfile.LibsndfileError as error:
            raise not_decodable(error.error_string) from None
        if sound.subtype == "PCM_32":
            check_32_bit_file(mono, sound.channels)
        return mono, rate

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        refused, is_right = None, sound.subtype != "PCM_32"
        decoded = _blocks(sound if sound.seekable() else _again(stream), 0)
        try:
            for block in whole(decoded, End(announced)):
                if not is_right and block.any():
                    try:
                        check_32_bit_file(block, sound.channels)
                        is_right = True
                    except ShardError as error:
                        refused = error
                yield rate, block
        except soundfile.LibsndfileError as error:
            raise not_decodable(error.error_string) from None
        if refused and not is_right:
            raise refused

    return Recording(announced / rate, read, blocks)


def _again(stream: Stream) -> soundfile.SoundFile:
    """The file from its beginning, for codecs without a way back (GSM 6.10, G.721)."""
    stream.seek(0)
    return soundfile.SoundFile(_SndfileStream(stream))


def _blocks(sound: soundfile.SoundFile, start: int) -> Blocks:
    position = 0
    if sound.seekable():
        position = max(0, start - round(PREROLL_SECONDS * sound.samplerate))
        sound.seek(position)
    while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
        yield position, block.mean(axis=1)
        position += len(block)
