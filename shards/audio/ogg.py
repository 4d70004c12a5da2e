"""The pages of an Ogg file: whether all are there, and how long they say it is.

Decoders step over a missing page silently, which shifts all that follows it.
All input is untrusted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from shards.errors import ShardError

MAX_PAGES = 1 << 20
"""Pages that are looked at: 5 hours of Vorbis, or 60 MB of forged empty ones."""

_HEADER = struct.Struct("<4sBBqIIIB")
_BEGINS, _ENDS = 2, 4
_NO_PACKET_ENDS = -1


@dataclass
class OggPages:
    """What the pages of a whole Ogg file tell."""

    num_streams: int = 0
    """Streams that begin, at one time (video) or one after the other (web radio)."""
    last_granule: int = 0
    """Time of the end of the last page, in the clock of its codec."""
    is_monotone: bool = True
    """Whether time never goes back."""
    _numbers: dict[int, int] = field(default_factory=dict)
    _granules: dict[int, int] = field(default_factory=dict)

    def add(self, flags: int, granule: int, serial: int, number: int) -> None:
        """Count a page; ShardError if one before it is missing."""
        if flags & _BEGINS:
            self.num_streams += 1
            self._granules[serial] = 0
        before = self._granules.get(serial, 0)
        # a listener of a live stream gets its headers, and then its present pages
        if before > 0 and number != self._numbers[serial] + 1:
            raise ShardError(
                f"truncated or damaged: Ogg page {self._numbers[serial] + 1} is "
                "missing; fetch it again"
            )
        self._numbers[serial] = number
        if granule != _NO_PACKET_ENDS:
            self.is_monotone = self.is_monotone and granule >= before
            self._granules[serial] = self.last_granule = granule


def read_pages(stream: BinaryIO, length: int) -> OggPages:
    """The pages of the file of ``length`` bytes in ``stream``, from its beginning.

    Raises ShardError if a page is missing or cut, or the last one does not end its
    stream.
    """
    pages, position, flags = OggPages(), 0, 0
    for _ in range(MAX_PAGES):
        if position >= length:
            break
        stream.seek(position)
        header = stream.read(_HEADER.size + 255)
        if len(header) < _HEADER.size or header[:4] != b"OggS":
            if flags & _ENDS:
                break  # a tag, or zeros
            raise ShardError(
                f"truncated or damaged: no Ogg page at byte {position}; fetch it again"
            )
        _, _, flags, granule, serial, number, _, count = _HEADER.unpack_from(header)
        size = _HEADER.size + count + sum(header[_HEADER.size :][:count])
        position += size
        if position > length:
            raise ShardError("truncated: ends inside an Ogg page; fetch it again")
        pages.add(flags, granule, serial, number)
    if not flags & _ENDS:
        raise ShardError(
            "truncated: its last Ogg page does not end the stream; fetch it again"
        )
    return pages
