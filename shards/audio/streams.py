"""Streams that audio files are read from."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol


class Stream(Protocol):
    """What decoders and parsers need of a file, or of bytes as one."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, or all that are left."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go there; the new position."""

    def tell(self) -> int:
        """Position in bytes."""


def read_at(stream: Stream, position: int, size: int) -> bytes:
    """Up to ``size`` bytes from a position, which may lie beyond any file."""
    if position >= 1 << 63:
        return b""
    stream.seek(position)
    return stream.read(size)


class Pipe:
    """Bytes that come once, as from another program; each read takes what is there."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        self._read = read

    def read(self, size: int) -> bytes:
        """1 to ``size`` bytes, as soon as there are any; none at the end."""
        return self._read(size) or b""


class RepairedStream:
    """A stream in which some bytes read as others; for the decoders."""

    def __init__(self, stream: Stream, repairs: dict[int, bytes]) -> None:
        self._stream = stream
        self._repairs = repairs

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, repaired."""
        begin = self._stream.tell()
        data = self._stream.read(size)
        for position, right in self._repairs.items():
            first, last = (
                max(begin, position),
                min(begin + len(data), position + len(right)),
            )
            if first < last:
                data = (
                    data[: first - begin]
                    + right[first - position : last - position]
                    + data[last - begin :]
                )
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go there; the new position."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Position in bytes."""
        return self._stream.tell()
