"""Random access to clips and label rows inside tars.

Owns the memory maps. Knows where members lie from the index alone, so nothing in a
tar is trusted or searched at run time; verify.py checks tars against the index.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards import audio, schema
from shards.index import Index
from shards.schema import ShardError

MAX_OPEN_SHARDS = 2048
"""Memory maps kept per reader at most; each holds a file descriptor."""


class MemberReader:
    """The indexed members of a dataset, by row. Safe to share among threads."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._open = functools.lru_cache(_num_open_shards())(_map_file)

    def member(self, row: int) -> memoryview:
        """The bytes of row's member, without copying."""
        table = self.index.table
        view = self._open(self.index.paths[table.shard[row]])
        start, size = int(table.offset[row]), int(table.size[row])
        if start + size > len(view):
            raise ShardError(
                f"ends at byte {start + size}, but the shard has {len(view)}; copy or "
                "make it again"
            )
        return view[start : start + size]

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


def _num_open_shards() -> int:
    """Maps a reader can afford: a quarter of the descriptors, raised if need be.

    Every stream of a batch has a few shards open; a reader that cannot keep them maps
    and unmaps at each read.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_OPEN_SHARDS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_OPEN_SHARDS if soft == resource.RLIM_INFINITY else min(soft, wanted) // 4


def _map_file(path: Path) -> memoryview:
    with open(path, "rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
