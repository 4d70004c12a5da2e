"""How long MP3 and FLAC files are, by their headers and by their last frame.

A header that was written before the end, or copied with a part of a file, is wrong;
decoders believe it silently. Decodes nothing. All input is untrusted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from shards.audio.streams import Stream, read_at

_ID3_BYTES = 10
_TAIL_BYTES = 1 << 17


def skip_id3(stream: Stream) -> int:
    """Byte position after the ID3 tags at the beginning of ``stream``, or 0."""
    position = 0
    for _ in range(8):
        stream.seek(position)
        head = stream.read(_ID3_BYTES)
        if head[:3] != b"ID3" or len(head) < _ID3_BYTES:
            break
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte & 127
        position += _ID3_BYTES + size
    return position


@dataclass(frozen=True)
class Mp3Header:
    """What the first frame of an MP3 file states."""

    num_samples: int
    """Of one channel, without what the encoder has added."""
    padding: int
    """Samples that the encoder has added at the end."""
    field: int
    """Byte position of the number of frames, in 4 bytes."""


def read_mp3_header(stream: Stream) -> Mp3Header | None:
    """The Xing or Info header of LAME and FFmpeg, or the VBRI header of Fraunhofer.

    None if there is none, or it states no number of frames.
    """
    start = skip_id3(stream)
    frame = read_at(stream, start, 256)
    if len(frame) < 256 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return None
    per_frame = 1152 if frame[1] & 0x18 == 0x18 else 576
    if frame[36:40] == b"VBRI":
        field, added = 50, (0, 0)
    else:
        position = max(frame.find(b"Xing", 0, 64), frame.find(b"Info", 0, 64))
        if position < 0 or not frame[position + 7] & 1:
            return None
        field, added = position + 8, _added_samples(frame, position)
    count = int.from_bytes(frame[field : field + 4], "big")
    if not count:
        return None
    num_samples = max(0, count * per_frame - sum(added))
    return Mp3Header(num_samples, added[1], start + field)


def _added_samples(frame: bytes, position: int) -> tuple[int, int]:
    """Samples added at the beginning and end, if the header at ``position`` tells."""
    flags = frame[position + 7]
    position += 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1)
    position += 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if frame[position : position + 4] not in (b"LAME", b"Lavf", b"Lavc"):
        return 0, 0
    both = int.from_bytes(frame[position + 21 : position + 24], "big")
    return both >> 12, both & 0xFFF


def count_flac_samples(stream: Stream) -> tuple[int, int] | None:
    """Samples of a FLAC file by its header (0: not stated), and by its last frame.

    The latter is 0 if no frame is found at the end. None if it is not FLAC.
    """
    start = skip_id3(stream)
    stream.seek(start)
    head = stream.read(42)
    if len(head) < 42 or head[:4] != b"fLaC":
        return None
    block, longest = (
        int.from_bytes(head[10:12], "big"),
        int.from_bytes(head[15:18], "big"),
    )
    stated = struct.unpack(">Q", head[18:26])[0] & (1 << 36) - 1
    size = min(2 * longest + 16, _TAIL_BYTES) if longest else _TAIL_BYTES
    length = stream.seek(0, 2)
    stream.seek(max(start + 42, length - size))
    return stated, _end_of_last_frame(stream.read(size), block)


def _end_of_last_frame(tail: bytes, block: int) -> int:
    """Where the last frame that begins in ``tail`` ends, in samples; 0 if none does."""
    position = len(tail)
    while (position := tail.rfind(b"\xff", 0, position)) >= 0:
        if tail[position + 1 : position + 2] in (b"\xf8", b"\xf9"):
            end = _end_of_frame(tail[position : position + 16], block)
            if end:
                return end
    return 0


def _end_of_frame(header: bytes, block: int) -> int:
    """Where the frame with this header ends, in samples; 0 if it is not a header."""
    if len(header) < 6 or header[3] & 1 or header[2] >> 4 == 0 or header[2] & 15 == 15:
        return 0
    extra = 8 - (header[4] ^ 0xFF).bit_length()  # leading ones
    if extra in (1, 8):
        return 0
    size = max(1, extra)
    number = header[4] & (0x7F >> extra)
    for byte in header[5 : 4 + size]:
        number = number << 6 | byte & 0x3F
    position = 4 + size
    code = header[2] >> 4
    width = {6: 1, 7: 2}.get(code, 0)
    samples = int.from_bytes(header[position : position + width], "big") + 1
    if not width:
        samples = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    position += width + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if len(header) <= position or _crc8(header[:position]) != header[position]:
        return 0
    first = number if header[1] & 1 else number * block
    return first + samples


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
