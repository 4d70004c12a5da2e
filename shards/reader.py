"""Random access to clips and label rows inside tars.

Owns the memory maps. Knows where members lie from the index alone, so nothing in a
tar is trusted or searched at run time; verify.py checks tars against the index.
"""

from __future__ import annotations

import functools
import mmap
from pathlib import Path

import numpy as np

from shards import audio, schema
from shards.index import Index
from shards.schema import ShardError

MAX_OPEN_SHARDS = 128
"""Memory maps kept per reader; each holds a file descriptor."""


class MemberReader:
    """The indexed members of a dataset, by row. Safe to share among threads."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._open = functools.lru_cache(MAX_OPEN_SHARDS)(_map_file)

    def member(self, row: int) -> memoryview:
        """The bytes of row's member, without copying."""
        table = self.index.table
        view = self._open(self.index.paths[table.shard[row]])
        start, size = int(table.offset[row]), int(table.size[row])
        if start + size > len(view):
            raise ShardError(
                f"{self.index.place(row)}: ends at byte {start + size}, but the shard "
                f"has {len(view)}; copy or make it again"
            )
        return view[start : start + size]

    def samples(self, row: int, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop`` [N] int16 of an audio row."""
        return audio.decode(
            self.member(row),
            codec=self.index.properties["codec"],
            start=start,
            stop=stop,
            where=self.index.place(row),
        )

    def labels(self, row: int) -> np.ndarray:
        """Chunk labels [K, C] float16 of a label row."""
        return schema.decode_labels(
            self.member(row),
            num_chunks=int(self.index.table.count[row]),
            num_classes=len(self.index.classes),
            where=self.index.place(row),
        )


def _map_file(path: Path) -> memoryview:
    with open(path, "rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
