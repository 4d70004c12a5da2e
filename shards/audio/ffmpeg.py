"""Audio files that FFmpeg (through PyAV) decodes -> mono float samples.

Owns which formats and codecs are opened, how a place in a file is found again exactly,
and which decoding errors are forgiven. Files are untrusted: nothing but the given bytes
is read, and no more is decoded than is asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import cast

import av
import numpy as np
from av import AudioFrame, Packet
from av.audio.stream import AudioStream
from av.container import InputContainer

from shards.audio.chunks import TAGS
from shards.audio.pcm import to_float
from shards.audio.recording import (
    NOT_STATED,
    PREROLL_SECONDS,
    Blocks,
    End,
    bounds,
    check_sound,
    cut,
    not_decodable,
    whole,
)
from shards.audio.streams import Pipe, Stream
from shards.errors import ShardError

_FORMATS = (
    "mov,matroska,asf,avi,flv,mpegts,mpeg,aac,ac3,eac3,amr,mp3,ogg,flac,wav,caf,wv,ape"
)
_CODECS = (
    "aac,aac_latm,ac3,ac3_fixed,eac3,alac,amrnb,amrwb,ape,flac,mp1,mp1float,mp2,"
    "mp2float,mp3,mp3float,opus,libopus,vorbis,speex,libspeex,tta,wavpack,wmav1,wmav2,"
    "wmapro,wmalossless,adpcm_ima_wav,adpcm_ima_qt,adpcm_ms,adpcm_swf,g722,"
    "g726,g726le,gsm,gsm_ms,truespeech,pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,"
    "pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,"
    "pcm_f64be"
)
_INDEXED = ("mov", "matroska", "asf")
"""Formats in which FFmpeg seeks by an index, not by an estimate."""

_BARE = ("mp3", "aac")
"""Formats that are packets and nothing else, each of as many samples: MP3 and ADTS.
They may begin and end anywhere, so the first and last packets may not be decodable."""


def read_with_ffmpeg(
    stream: Stream, start_seconds: float, stop_seconds: float, end: End = NOT_STATED
) -> tuple[np.ndarray, int]:
    """Mono samples [N] float32 of a part, timed from the first sample, and the rate.

    Of several tracks the one that FFmpeg takes for best; fewer samples where it ends.
    Raises ShardError if it cannot be decoded, or ends before ``end``.
    """
    try:
        with _open(stream) as container:
            reader = _read(container)
            start, stop = bounds(start_seconds, stop_seconds, reader.rate)
            return cut(reader.blocks(start), start, stop, end), reader.rate
    except av.FFmpegError as error:
        raise not_decodable(error.strerror or "ends too early") from None


def stream_with_ffmpeg(
    stream: Stream | Pipe, end: End = NOT_STATED
) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and mono samples [N] float32 of each block, from the first to the last.

    Of a pipe, too. Raises what read_with_ffmpeg raises.
    """
    try:
        with _open(stream) as container:
            reader = _read(container)
            for block in whole(reader.blocks(0), end):
                yield reader.rate, block
    except av.FFmpegError as error:
        raise not_decodable(error.strerror or "ends too early") from None


def _read(container: InputContainer) -> _Reader:
    """Of the track that FFmpeg takes for best; ShardError where there is no audio."""
    track = container.streams.best("audio")
    if not isinstance(track, AudioStream):
        raise ShardError("holds no audio, only other media")
    return _Reader(container, track)


def _open(stream: Stream | Pipe) -> InputContainer:
    """The container; titles and the like need not be UTF-8, as no one reads them."""
    options = {"format_whitelist": _FORMATS, "codec_whitelist": _CODECS}
    if not isinstance(stream, Pipe):
        stream.seek(0)
    return av.open(stream, "r", options=options, metadata_errors="replace")


class _Reader:
    """The frames of one track from its beginning, or from a place in it."""

    def __init__(self, container: InputContainer, track: AudioStream) -> None:
        self._container = container
        self._track = track
        self._format = container.format.name
        self._frames = self._decode(self._packets())
        self._first = list(itertools.islice(self._frames, 2))
        if not self._first:
            raise ShardError("no audio samples; copy or fetch it again")
        self.rate = self._first[0].sample_rate
        check_sound(self.rate, len(self._first[0].layout.channels))

    def blocks(self, start: int) -> Blocks:
        """Mono blocks; the first begins at sample ``start`` or before."""
        position = 0
        frames: Iterator[AudioFrame] = itertools.chain(self._first, self._frames)
        target = start - round(PREROLL_SECONDS * self.rate)
        if target > sum(frame.samples for frame in self._first):
            if self._format.startswith(_INDEXED):
                position, frames = self._seek(target)
            elif self._format in _BARE:
                position, frames = self._skip(target)
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise ShardError(
                    f"changes from {self.rate} to {frame.sample_rate} Hz; cut it"
                )
            mono = _mono(frame)
            yield position, mono
            position += len(mono)

    def _decode(self, packets: Iterable[Packet]) -> Iterator[AudioFrame]:
        """All frames of ``packets``.

        Raises FFmpegError, of a bare stream only for a packet between good ones.
        """
        broken: av.FFmpegError | None = None
        has_begun = False
        for packet in packets:
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if self._format not in _BARE:
                    raise
                if not bytes(packet).startswith(TAGS):
                    broken = error
                continue
            if frames and broken and has_begun:
                raise broken
            if frames:
                has_begun, broken = True, None
            yield from cast("list[AudioFrame]", frames)

    def _packets(self) -> Iterator[Packet]:
        return self._container.demux(self._track)

    def _again(self) -> tuple[int, Iterator[AudioFrame]]:
        self._container.seek(0)
        return 0, self._decode(self._packets())

    def _seek(self, target: int) -> tuple[int, Iterator[AudioFrame]]:
        """Position and frames from the one that holds sample ``target`` or before.

        The position is the frame's time stamp less that of the first frame. Where
        clocks are coarser than samples (WebM: 1 ms), it is put on the grid of equally
        long frames; without such a grid all is decoded from the beginning.
        """
        origin = self._first[0].time
        if origin is None:
            return self._again()
        self._container.seek(round((origin + target / self.rate) * av.time_base))
        frames = self._decode(self._packets())
        first = next(frames, None)
        if first is None or first.time is None:
            return self._again()
        position = self._on_grid(round((first.time - origin) * self.rate), first)
        if position is None or not 0 <= position <= target:
            return self._again()
        return position, itertools.chain([first], frames)

    def _on_grid(self, position: int, frame: AudioFrame) -> int | None:
        """The exact position of ``frame`` near ``position``; None if it has none."""
        clock = self._track.time_base
        tick = 0 if clock is None else round(clock * self.rate)
        if tick <= 1:
            return position
        begin, length = self._first[0].samples, self._first[-1].samples
        if frame.samples != length or length < 4 * tick:
            return None
        exact = begin + round((position - begin) / length) * length
        return exact if abs(exact - position) <= 2 * tick else None

    def _skip(self, target: int) -> tuple[int, Iterator[AudioFrame]]:
        """The same by leaving out packets, each of which is one frame.

        Where their time stamps do not agree with that, all is decoded.
        """
        position, length = sum(f.samples for f in self._first), self._first[-1].samples
        origin, packets = self._first[0].time, self._packets()
        for packet in packets:
            if packet.pts is None or packet.time_base is None or origin is None:
                break
            if bytes(packet)[:1] != b"\xff":  # no frame
                break
            time = float(packet.pts * packet.time_base) - origin
            if abs(time * self.rate - position) > 1:
                break
            if position + length > target:
                return position, self._decode(itertools.chain([packet], packets))
            position += length
        return self._again()


def _mono(frame: AudioFrame) -> np.ndarray:
    channels = len(frame.layout.channels)
    check_sound(frame.sample_rate, channels)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    return to_float(samples).mean(axis=0)
