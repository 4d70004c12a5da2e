"""What is done for shards before they are read, in threads.

Owns the threads, and which shards they are at. What they cannot do they leave to the
reader, which tries for itself and says what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.remote.places import Stopped
from shards.system.exits import JobError
from shards.system.threads import start_thread

NUM_THREADS = 4
"""Shards on their way at a time; one connection rarely fills a line."""

_NO_ROOM_SECONDS = 1.0


def within(
    shards: Iterable[int], num_bytes: Callable[[int], int], max_bytes: int
) -> Iterator[int]:
    """The first of ``shards``, each once, that have ``max_bytes`` together."""
    seen: set[int] = set()
    left = max_bytes
    for shard in shards:
        if shard not in seen:
            seen.add(shard)
            left -= num_bytes(shard)
            if left < 0:
                return
            yield shard


class ShardThreads:
    """Threads that do something for one shard after the other.

    A context manager; at its end the threads stop, those at work as soon as that sees
    ``stop``.
    """

    def __init__(self, do: Callable[[int, threading.Event], bool], num: int) -> None:
        """``do(shard, stop)`` gives False to be called again a moment later.

        The ShardError, JobError and OSError that it raises mean nothing here. With
        ``num`` 0 nothing is done.
        """
        self._do, self._num = do, num
        self._wanted: Iterator[int] = iter(())
        self._version = 0
        self._changed = threading.Condition()
        self.stop = threading.Event()

    def __enter__(self) -> Self:
        for _ in range(self._num):
            start_thread(self._work, name="prefetch")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        with self._changed:
            self._changed.notify_all()

    def want(self, shards: Iterator[int]) -> None:
        """Turn to these shards, in this order, instead of those wanted before.

        ``shards`` is iterated by the threads.
        """
        with self._changed:
            self._wanted = shards
            self._version += 1
            self._changed.notify_all()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            shard, version = task
            try:
                while version == self._version and not self.stop.is_set():
                    if self._do(shard, self.stop):
                        break
                    self.stop.wait(_NO_ROOM_SECONDS)
            except (ShardError, JobError, OSError):
                pass  # the reader of this shard will meet the same, and raise it
            except Stopped:
                return

    def _next(self) -> tuple[int, int] | None:
        """The next shard and the version of the wishes it is from; None at the end."""
        with self._changed:
            while not self.stop.is_set():
                shard = next(self._wanted, None)
                if shard is not None:
                    return shard, self._version
                self._changed.wait()
        return None


class Prefetcher:
    """Fetches the shards of ``readers``, which have the same numbering, in threads.

    A context manager; at its end the threads stop, those that wait for a server as
    soon as it answers or is given up.
    """

    def __init__(self, readers: Sequence[MemberReader], max_bytes: int) -> None:
        self.readers = readers
        self.max_bytes = max_bytes
        """Total size of the shards wanted at a time; later ones are left alone."""
        any_remote = any(reader.any_remote for reader in readers)
        self._threads = ShardThreads(self._fetch, NUM_THREADS if any_remote else 0)

    def __enter__(self) -> Self:
        self._threads.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.__exit__()

    def want(self, shards: Iterable[int]) -> None:
        """Fetch these shards, in this order, instead of those wanted before.

        ``shards`` is iterated by the threads.
        """
        self._threads.want(within(shards, self.num_bytes, self.max_bytes))

    def num_bytes(self, shard: int) -> int:
        """Bytes of cache that a shard takes."""
        return sum(
            reader.index.shards[shard].num_bytes
            for reader in self.readers
            if reader.is_remote(shard)
        )

    def _fetch(self, shard: int, stop: threading.Event) -> bool:
        return all(reader.fetch(shard, stop) for reader in self.readers)
