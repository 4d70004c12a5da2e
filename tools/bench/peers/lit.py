"""litdata: one chunk a sample, in files of 64 MB."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from litdata import StreamingDataLoader, StreamingDataset, optimize

from shards.dataset.reader import MemberReader
from shards.format.index import open_index
from tools.bench.peers.clips import chunk_samples
from tools.bench.peers.loading import loader_options
from tools.bench.peers.task import SEED, Task


def _chunks_of(row: int, *, audio: Path, length: int) -> Iterator[np.ndarray]:
    reader = MemberReader(open_index(audio / "wav", kind="audio"))
    clip = reader.samples(row, 0, int(reader.index.table.count[row]))
    for start in range(0, len(clip), length):
        yield np.array(clip[start : start + length])


def prepare(task: Task) -> None:
    """The chunks by the library's own optimize()."""
    rows = range(len(open_index(task.audio / "wav", kind="audio")))
    optimize(
        fn=partial(_chunks_of, audio=task.audio, length=chunk_samples(task.audio)),
        inputs=list(rows),
        output_dir=str(task.folder),
        chunk_bytes="64MB",
        num_workers=1,
        mode="overwrite",
    )


class Reader:
    """StreamingDataset on a local folder, its shuffle, StreamingDataLoader."""

    def __init__(self, task: Task, state: Any = None) -> None:
        dataset = StreamingDataset(
            str(task.folder), shuffle=True, drop_last=True, seed=SEED
        )
        self._loader = StreamingDataLoader(dataset, **loader_options(task))
        if state is not None:
            self._loader.load_state_dict(state)

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self._loader

    def state(self) -> Any:
        """What the library saves."""
        return self._loader.state_dict()
