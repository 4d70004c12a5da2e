"""The pages of an Ogg file: whether all are there, and how long they say it is.

Decoders step silently over a page that is missing or damaged, which shifts all that
follows it. All input is untrusted.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from shards.audio.streams import Stream
from shards.errors import ShardError

MAX_PAGES = 1 << 20
"""Pages that are looked at: 5 hours of Vorbis, or 30 MB of forged empty ones."""

_HEADER = struct.Struct("<4sBBqIIIB")
_BEGINS, _ENDS = 2, 4
_NO_PACKET_ENDS = -1
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass
class OggPages:
    """What the pages of a whole Ogg file tell."""

    num_streams: int = 0
    """Streams that begin, at one time (video) or one after the other (web radio)."""
    last_granule: int = 0
    """Time of the end of the last page, in the clock of its codec."""
    has_order: bool = True
    """Whether each page has a time, and none before that of another."""
    repairs: dict[int, bytes] = field(default_factory=dict)
    """What decoders should read in the last page, by position, if it has no order."""
    _numbers: dict[int, int] = field(default_factory=dict)
    _granules: dict[int, int] = field(default_factory=dict)

    def add(self, page: bytes) -> int:
        """Count a page and return its flags; ShardError if one before it is missing."""
        _, _, flags, granule, serial, number, _, count = _HEADER.unpack_from(page)
        if flags & _BEGINS:
            self.num_streams += 1
            self._granules[serial] = 0
        before = self._granules.get(serial, 0)
        # a listener of a live stream gets its headers, and then its present pages
        if before > 0 and number != self._numbers[serial] + 1:
            raise ShardError(
                f"truncated or damaged: Ogg page {self._numbers[serial] + 1} is "
                "missing; copy or fetch it again"
            )
        self._numbers[serial] = number
        has_packet_end = min(page[_HEADER.size :][:count], default=255) < 255
        if granule >= before:
            self._granules[serial] = self.last_granule = granule
        elif granule != _NO_PACKET_ENDS or has_packet_end:
            self.has_order = False
        return flags


def read_pages(stream: Stream, length: int) -> OggPages:
    """The pages of the file of ``length`` bytes in ``stream``, from its beginning.

    Raises ShardError if a page is missing, damaged or cut, or the last one does not end
    its stream.
    """
    pages, position, flags, page = OggPages(), 0, 0, b""
    for _ in range(MAX_PAGES):
        if position >= length:
            break
        found = _read_page(stream, position)
        if found is None and flags & _ENDS:  # a tag or zeros, and maybe another stream
            position = _find_page(stream, position)
            continue
        if found is None:
            raise ShardError(
                f"truncated or damaged: no Ogg page at byte {position}; "
                "copy or fetch it again"
            )
        page = found
        flags = pages.add(page)
        position += len(page)
    if not flags & _ENDS:
        raise ShardError(
            "truncated: its last Ogg page does not end the stream; "
            "copy or fetch it again"
        )
    if not pages.has_order:
        later = pages.last_granule + 1
        pages.repairs = _without_end(page, position - len(page), later)
    return pages


def _read_page(stream: Stream, position: int) -> bytes | None:
    """The page at a position, None if there is none; ShardError if it is damaged."""
    stream.seek(position)
    header = stream.read(_HEADER.size)
    if not header.startswith(b"OggS"):
        return None
    is_cut = len(header) < _HEADER.size
    lengths = b"" if is_cut else stream.read(header[-1])
    page = header + lengths + stream.read(sum(lengths))
    if is_cut or len(page) < _HEADER.size + header[-1] + sum(lengths):
        raise ShardError("truncated: ends inside an Ogg page; copy or fetch it again")
    if _checksum(page) != page[22:26]:
        raise ShardError(
            f"damaged: wrong checksum of the Ogg page at byte {position}; fetch "
            "it again"
        )
    return page


def _find_page(stream: Stream, position: int) -> int:
    """Where the next page may begin; the end of the file if there is none."""
    while True:
        stream.seek(position)
        block = stream.read(1 << 20)
        found = block.find(b"OggS")
        if found >= 0:
            return position + found
        if len(block) < 4:
            return position + len(block)
        position += len(block) - 3


def _checksum(page: bytes) -> bytes:
    """The CRC-32 that a page should have, by zlib's, which takes bits in reverse."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_BITS_REVERSED)


def _without_end(page: bytes, position: int, granule: int) -> dict[int, bytes]:
    """Bytes with which a page has a time, and no decoder takes that for its end."""
    flags, time = bytes([page[5] & ~_ENDS]), struct.pack("<q", granule)
    repaired = page[:5] + flags + time + page[14:]
    return {position + 5: repaired[5:14], position + 22: _checksum(repaired)}
