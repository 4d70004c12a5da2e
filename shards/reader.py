"""Random access to clips and label rows inside tars.

Owns the memory maps of local shards; cache.py has those of remote ones. Knows where
members lie from the index alone, so nothing in a tar is trusted or searched at run
time; verify.py checks tars against the index.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from shards import audio, schema
from shards.cache import ShardCache, num_open_shards
from shards.index import Index
from shards.remote import is_url
from shards.schema import ShardError


class MemberReader:
    """The indexed members of a dataset, by row. Safe to share among threads."""

    def __init__(self, index: Index, cache: ShardCache | None = None) -> None:
        """``cache`` is for remote shards; by default the user's."""
        self.index = index
        self.cache = cache or ShardCache()
        self._remote = {
            place: shard
            for place, shard in zip(index.places, index.shards, strict=True)
            if is_url(place)
        }
        self.cache.check_fits(tuple(self._remote.values()), where=index.where)
        self._open_local = functools.lru_cache(num_open_shards())(_map_file)
        self._open: Callable[[str], memoryview] = (
            self._open_any if self._remote else self._open_local
        )

    def member(self, row: int) -> memoryview:
        """The bytes of row's member, without copying."""
        table = self.index.table
        view = self._open(self.index.places[table.shard[row]])
        start, size = int(table.offset[row]), int(table.size[row])
        if start + size > len(view):
            raise ShardError(
                f"ends at byte {start + size}, but the shard has {len(view)}; copy or "
                "make it again"
            )
        return view[start : start + size]

    def _open_any(self, place: str) -> memoryview:
        if (shard := self._remote.get(place)) is not None:
            return self.cache.view(place, shard)
        return self._open_local(place)

    @property
    def any_remote(self) -> bool:
        """Whether any shard has to be fetched."""
        return bool(self._remote)

    def is_remote(self, shard: int) -> bool:
        """Whether shard number ``shard`` has to be fetched."""
        return self.index.places[shard] in self._remote

    @contextlib.contextmanager
    def local_file(self, shard: int) -> Iterator[Path]:
        """A whole shard as a file, fetched if need be, for the length of the block."""
        place = self.index.places[shard]
        if place not in self._remote:
            yield Path(place)
            return
        with self.cache.file(place, self._remote[place]) as path:
            yield path

    def fetch(self, shard: int, stop: threading.Event) -> bool:
        """Have a shard on local disk; False if the cache has no room for it now.

        Raises ShardError, JobError or Stopped as ShardCache.fetch does.
        """
        place = self.index.places[shard]
        if place not in self._remote:
            return True
        return self.cache.fetch(place, self._remote[place], stop)

    def samples(self, row: int, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop`` [N] int16 of an audio row."""
        codec = self.index.properties["codec"]
        with self._named(row):
            return audio.decode(
                self.member(row),
                codec=codec,
                start=start,
                stop=stop,
                sample_rate=self.index.properties["sample_rate"],
            )

    def labels(self, row: int) -> np.ndarray:
        """Chunk labels [K, C] float16 of a label row, all in [0, 1]."""
        shape = int(self.index.table.count[row]), len(self.index.classes)
        with self._named(row):
            return schema.decode_labels(self.member(row), *shape)

    @contextlib.contextmanager
    def _named(self, row: int) -> Iterator[None]:
        """Put the place of ``row`` before the message of a ShardError."""
        try:
            yield
        except ShardError as error:
            raise ShardError(f"{self.index.place(row)}: {error}") from None


def _map_file(path: str) -> memoryview:
    with open(path, "rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
