"""Local shards asked of the kernel before they are read.

Owns what is asked for and when. A chunk at a random place of a cold file costs a round
trip to the disk or the file server; the same bytes in a row, asked for in time, cost
its bandwidth. What is asked for stays in the page cache, so there is a limit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from shards.dataset.prefetch import ShardThreads, within
from shards.dataset.reader import MemberReader

NUM_THREADS = 2
PIECE_BYTES = 8 << 20
"""Asked for at a time, so that a thread told to stop does so."""


class Readahead:
    """Asks for the local shards of ``readers``, which have the same numbering.

    A context manager; its threads end with it.
    """

    def __init__(self, readers: Sequence[MemberReader], max_bytes: int) -> None:
        """``max_bytes`` are asked for ahead at a time; with 0 nothing is."""
        self._readers, self._max_bytes = readers, max_bytes
        self._asked: set[int] = set()
        is_on = max_bytes > 0 and any(map(_any_local, readers))
        self._threads = ShardThreads(self._ask, NUM_THREADS if is_on else 0)

    def __enter__(self) -> Self:
        self._threads.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.__exit__()

    def want(self, shards: Iterable[int]) -> None:
        """Ask for these shards, in this order, instead of those wanted before.

        Those beyond the limit are left to their readers. ``shards`` is iterated by the
        threads.
        """
        self._threads.want(self._not_asked(shards))

    def _not_asked(self, shards: Iterable[int]) -> Iterator[int]:
        """Those not asked for yet; what was, and is wanted no more, is forgotten."""
        asked, self._asked = self._asked, set()
        for shard in within(shards, self._num_bytes, self._max_bytes):
            self._asked.add(shard)
            if shard not in asked:
                yield shard

    def _num_bytes(self, shard: int) -> int:
        return sum(size for _, size in self._files(shard))

    def _files(self, shard: int) -> list[tuple[Path, int]]:
        """Path and bytes of the files of a shard that are on this machine."""
        found = (reader.file_read(shard) for reader in self._readers)
        return [file for file in found if file is not None]

    def _ask(self, shard: int, stop: threading.Event) -> bool:
        for path, num_bytes in self._files(shard):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for start in range(0, num_bytes, PIECE_BYTES):
                    if stop.is_set():
                        return True
                    size = min(PIECE_BYTES, num_bytes - start)
                    os.posix_fadvise(handle, start, size, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)
        return True


def _any_local(reader: MemberReader) -> bool:
    return not all(map(reader.is_remote, range(len(reader.index.shards))))


def available_bytes() -> int:
    """Memory of this machine that a program could have without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0
