"""What an audio file says about its own length, compared with what is there.

Owns the marks by which a file that was cut short can be known, since decoders read
such files without a word. Decodes nothing. All input is untrusted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from shards.errors import ShardError

MAX_CHUNKS = 4096
"""Chunks of a file that are looked at: a hostile file may hold a billion empty ones."""

_MAX_OGG_PAGE = 27 + 255 + 255 * 255

_UNKNOWN = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""Sizes that writers leave when they cannot go back: the length cannot be known."""

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")

_EBML_UNKNOWN = (1 << 56) - 1


def check_whole(stream: BinaryIO) -> None:
    """ShardError if the file in ``stream`` announces more bytes than it has.

    Knows WAV, RF64, W64, AVI, AIFF, AU, CAF, WMA, Ogg, MP4 and its kin, Matroska and
    WebM. A cut FLAC, or MP3 with a frame count, shows when decoded. Of what was
    streamed without lengths, and of MP3 without a count, ADTS, AC-3, FLV and MPEG-TS,
    a cut between two packets cannot be known.
    """
    length = stream.seek(0, os.SEEK_END)
    head = _read_at(stream, 0, 64)
    if head[:4] == b"OggS":
        _check_ogg(stream, length)
        return
    announced = _announced_length(stream, head, length)
    if announced is not None and announced > length:
        raise ShardError(
            f"truncated: {announced} bytes announced, {length} present; fetch it again"
        )


def _announced_length(stream: BinaryIO, head: bytes, length: int) -> int | None:
    """Bytes the file says to have, or None where it says nothing."""
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RIFX") and form == b"WAVE":
        return _end_of_data(stream, 12, "<4sI" if kind == b"RIFF" else ">4sI")
    if len(head) < 40:
        return None
    if kind == b"RIFF":
        return _end(8, struct.unpack_from("<I", head, 4)[0])
    if kind == b"FORM":
        return _end(8, struct.unpack_from(">I", head, 4)[0])
    if kind == b"RF64" and head[12:16] == b"ds64":
        return _end(8, struct.unpack_from("<Q", head, 20)[0])
    if kind == b"riff":
        return _end(0, struct.unpack_from("<Q", head, 16)[0])
    if kind == b".snd":
        start, size = struct.unpack_from(">II", head, 4)
        return _end(start, size)
    if kind == b"caff":
        return _end_of_data(stream, 8, ">4sQ")
    if kind == b"\x30\x26\xb2\x75":
        return _asf_length(stream)
    if kind == b"\x1a\x45\xdf\xa3":
        return _end_of_ebml_segment(stream)
    if head[4:8] in (b"ftyp", b"styp"):
        return max(end for _, end in _boxes(stream, length))
    return None


def _end(start: int, size: int) -> int | None:
    return None if size in _UNKNOWN else start + size


def _read_at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)


def _end_of_data(stream: BinaryIO, position: int, header: str) -> int | None:
    """End of the data chunk; padding and chunks after it may be missing."""
    width = struct.calcsize(header)
    for _ in range(MAX_CHUNKS):
        fields = _read_at(stream, position, width)
        if len(fields) < width:
            break
        name, size = struct.unpack(header, fields)
        if name == b"data":
            return _end(position + width, size)
        position += width + size + (size % 2 if width == 8 else 0)
    raise ShardError("no data chunk; not a complete file, fetch it again")


def _asf_length(stream: BinaryIO) -> int | None:
    """File size in the file properties of an ASF (WMA) header; 0 if it was streamed."""
    head = _read_at(stream, 0, 1 << 16)
    position = head.find(_ASF_FILE_PROPERTIES)
    if position < 0 or len(head) < position + 48:
        return None
    return _end(0, struct.unpack_from("<Q", head, position + 40)[0])


def _boxes(stream: BinaryIO, length: int) -> Iterator[tuple[bytes, int]]:
    """Name and end of each top-level box of an MP4 file; the last may lie outside."""
    position = 0
    for _ in range(MAX_CHUNKS):
        header = _read_at(stream, position, 16)
        if position >= length:
            return
        if len(header) < 8:
            yield b"", position + 8
            return
        size, name = struct.unpack_from(">I4s", header)
        if size == 1 and len(header) == 16:
            size = struct.unpack_from(">Q", header, 8)[0]
        if size == 0:  # up to the end of the file
            size = length - position
        if size < 8:
            raise ShardError(f"damaged: a box of {size} bytes at byte {position}")
        position += size
        yield name, position


def _end_of_ebml_segment(stream: BinaryIO) -> int | None:
    """End of the segment that holds everything in a Matroska or WebM file."""
    position = 4
    size, position = _ebml_size(stream, position)
    position += size
    if _read_at(stream, position, 4) != b"\x18\x53\x80\x67":
        return None
    size, position = _ebml_size(stream, position + 4)
    return None if size == _EBML_UNKNOWN else position + size


def _ebml_size(stream: BinaryIO, position: int) -> tuple[int, int]:
    """An EBML size, of 1 to 8 bytes, and where it ends; all ones are unknown."""
    data = _read_at(stream, position, 8)
    width = 9 - data[0].bit_length() if data else 9
    if len(data) < width:
        raise ShardError("damaged Matroska or WebM header; fetch it again")
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    unknown = value == (1 << 7 * width) - 1
    return _EBML_UNKNOWN if unknown else value, position + width


def _check_ogg(stream: BinaryIO, length: int) -> None:
    """ShardError if the last page is not whole or does not end its stream."""
    tail = _read_at(stream, max(0, length - 2 * _MAX_OGG_PAGE), 2 * _MAX_OGG_PAGE)
    page = tail[tail.rfind(b"OggS") :]
    size = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 26 else 27
    if len(page) < size:
        raise ShardError("truncated: ends inside an Ogg page; fetch it again")
    if not page[5] & 4:
        raise ShardError(
            "truncated: its last Ogg page does not end the stream; fetch it again"
        )


def ogg_serials(stream: BinaryIO) -> set[bytes]:
    """Serial numbers of the first and last page: two if streams follow each other."""
    length = stream.seek(0, os.SEEK_END)
    tail = _read_at(stream, max(0, length - 2 * _MAX_OGG_PAGE), 2 * _MAX_OGG_PAGE)
    last = tail.rfind(b"OggS")
    return {_read_at(stream, 14, 4), tail[last + 14 : last + 18]}


def has_mp3_length(stream: BinaryIO) -> bool:
    """Whether an MP3 file begins with the header that counts its frames."""
    head = _read_at(stream, 0, 10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], _ID3))
    frame = _read_at(stream, start, 192)
    return b"Xing" in frame or b"Info" in frame


_ID3 = (21, 14, 7, 0)


def find_wav_data(data: bytes | memoryview) -> tuple[int, int]:
    """Byte position and announced byte count of the samples of a RIFF WAVE file.

    Raises ShardError if there is no data chunk among the first MAX_CHUNKS.
    """
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        name, size = struct.unpack_from("<4sI", data, position)
        if name == b"data":
            return position + 8, size
        position += 8 + size + size % 2
    raise ShardError("no data chunk; not a complete WAV file")
