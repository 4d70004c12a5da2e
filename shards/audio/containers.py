"""What an audio file says about its own length, compared with what is there.

Owns the marks by which a file that was cut short can be known, since decoders read
such files silently. Decodes nothing. All input is untrusted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from shards.audio.chunks import MAX_CHUNKS, is_placeholder
from shards.audio.streams import Stream, read_at
from shards.errors import ShardError

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")

_EBML_UNKNOWN = (1 << 56) - 1


def check_whole(stream: Stream) -> None:
    """ShardError if the file in ``stream`` announces more bytes than it has.

    Knows AVI, WMA, MP4 and its kin, Matroska and WebM; chunks.py and ogg.py know
    others. A cut FLAC, or MP3 with a frame count, shows when decoded. Of what was
    streamed without lengths, and of MP3 without a count, ADTS, AC-3, FLV and MPEG-TS,
    a cut between two packets cannot be known.
    """
    length = stream.seek(0, os.SEEK_END)
    announced = _announced_length(stream, read_at(stream, 0, 64), length)
    if announced is not None and announced > length:
        raise ShardError(
            f"truncated: {announced} bytes announced, {length} present; "
            "copy or fetch it again"
        )


def _announced_length(stream: Stream, head: bytes, length: int) -> int | None:
    """Length in bytes that the header declares; None if it declares none."""
    kind = head[:4]
    if len(head) < 40:
        return None
    if kind == b"RIFF" and head[8:12] != b"WAVE":
        size = struct.unpack_from("<I", head, 4)[0]
        return None if is_placeholder(size) else 8 + size
    if kind == b"\x30\x26\xb2\x75":
        return _asf_length(stream)
    if kind == b"\x1a\x45\xdf\xa3":
        return _end_of_ebml_segment(stream)
    if head[4:8] in (b"ftyp", b"styp"):
        return max(end for _, end in _boxes(stream, length))
    return None


def _asf_length(stream: Stream) -> int | None:
    """File size in the file properties of an ASF (WMA) header; 0 if it was streamed."""
    head = read_at(stream, 0, 1 << 16)
    position = head.find(_ASF_FILE_PROPERTIES)
    if position < 0 or len(head) < position + 48:
        return None
    size = struct.unpack_from("<Q", head, position + 40)[0]
    return None if is_placeholder(size) else size


def _boxes(stream: Stream, length: int) -> Iterator[tuple[bytes, int]]:
    """Name and end of each top-level box of an MP4 file; the last may lie outside."""
    position = 0
    for _ in range(MAX_CHUNKS):
        header = read_at(stream, position, 16)
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


def _end_of_ebml_segment(stream: Stream) -> int | None:
    """End of the segment that holds everything in a Matroska or WebM file."""
    position = 4
    size, position = _ebml_size(stream, position)
    position += size
    if read_at(stream, position, 4) != b"\x18\x53\x80\x67":
        return None
    size, position = _ebml_size(stream, position + 4)
    return None if size == _EBML_UNKNOWN else position + size


def _ebml_size(stream: Stream, position: int) -> tuple[int, int]:
    """An EBML size, of 1 to 8 bytes, and where it ends; all ones are unknown."""
    data = read_at(stream, position, 8)
    width = 9 - data[0].bit_length() if data else 9
    if len(data) < width:
        raise ShardError("damaged Matroska or WebM header; copy or fetch it again")
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    unknown = value == (1 << 7 * width) - 1
    return _EBML_UNKNOWN if unknown else value, position + width
