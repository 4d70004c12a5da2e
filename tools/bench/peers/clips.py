"""The chunks of the clips in order, for the ways that store them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import open_index
from tools.bench.contenders import CHUNK_SECONDS


def chunk_samples(audio: Path) -> int:
    """Samples of a chunk."""
    rate = open_index(audio / "wav", kind="audio").properties["sample_rate"]
    return Chunking.from_seconds(CHUNK_SECONDS, rate).chunk_samples


def each_chunk(audio: Path) -> Iterator[np.ndarray]:
    """Chunks [N] int16, clip after clip."""
    index = open_index(audio / "wav", kind="audio")
    reader, length = MemberReader(index), chunk_samples(audio)
    for row in range(len(index)):
        for start in range(0, int(index.table.count[row]), length):
            yield np.array(reader.samples(row, start, start + length))
