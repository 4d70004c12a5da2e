"""What a process remembers about the files of a cache folder.

Owns the maps it keeps, and which files it has compared with their hash.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO

from shards.format.index import ShardRecord
from shards.system.files import file_sha256


class ShardMaps:
    """The memory maps used last, by URL. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._views: OrderedDict[str, memoryview] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, url: str) -> memoryview | None:
        """The map of a shard, if it is kept."""
        with self._mutex:
            view = self._views.get(url)
            if view is not None:
                self._views.move_to_end(url)
            return view

    def put(self, url: str, view: memoryview) -> None:
        """Keep a map, for as long as it is among those used last."""
        with self._mutex:
            self._views[url] = view
            while len(self._views) > self._limit:
                self._views.popitem(last=False)

    def clear(self) -> None:
        """Keep none."""
        with self._mutex:
            self._views.clear()


class CheckedFiles:
    """The files whose content this process has compared with its SHA-256.

    A file is known by inode, length and mtime, which whatever writes to it changes.
    Threads may share it; a shard is read by one of them. ``compare`` reads a file.
    """

    def __init__(
        self, compare: Callable[[BinaryIO, ShardRecord], bool] | None = None
    ) -> None:
        self._compare = compare or _has_its_name
        self._known: dict[str, tuple[int, ...]] = {}
        self._reading: dict[str, threading.Lock] = {}
        self._mutex = threading.Lock()

    def note(self, stream: BinaryIO, shard: ShardRecord) -> None:
        """Take a file as checked."""
        self._known[shard.sha256] = _identity(stream)

    def is_intact(self, stream: BinaryIO, shard: ShardRecord) -> bool:
        """Whether an open file is ``shard``, read once."""
        with self._mutex:
            reading = self._reading.setdefault(shard.sha256, threading.Lock())
        with reading:
            identity = _identity(stream)
            if self._known.get(shard.sha256) == identity:
                return True
            if not self._compare(stream, shard) or _identity(stream) != identity:
                return False
            self._known[shard.sha256] = identity
            return True


def _has_its_name(stream: BinaryIO, shard: ShardRecord) -> bool:
    return file_sha256(stream) == shard.sha256


def _identity(stream: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(stream.fileno())
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
