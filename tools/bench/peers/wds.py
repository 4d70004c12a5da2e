"""The webdataset library on the tars that are there."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile
import webdataset
from webdataset.filters import detshuffle
from webdataset.shardlists import single_node_only, split_by_node

from shards.format.index import open_index
from tools.bench.contenders import CHUNK_SECONDS
from tools.bench.peers.task import SEED, SHUFFLE_BUFFER, Task


def prepare(task: Task) -> None:
    """Nothing: it reads our tars."""


class Reader:
    """Shuffled shards, a buffer of clips, soundfile on a member's bytes, chunks."""

    def __init__(self, task: Task, state: Any = None) -> None:
        assert state is None
        index = open_index(task.audio / "wav", kind="audio")
        self._samples = round(CHUNK_SECONDS * index.properties["sample_rate"])
        urls = [str(path) for path in index.paths]
        dataset = (
            webdataset.WebDataset(
                urls,
                shardshuffle=len(urls),
                detshuffle=True,
                seed=SEED,
                nodesplitter=split_by_node if task.world_size > 1 else single_node_only,
                empty_check=False,
            )
            .compose(detshuffle(SHUFFLE_BUFFER, seed=SEED))
            .to_tuple("wav")
            .compose(self._cut)
            .batched(task.batch_size, collation_fn=np.stack, partial=False)
        )
        self._loader = webdataset.WebLoader(
            dataset,
            batch_size=None,
            num_workers=task.workers,
            persistent_workers=task.workers > 0,
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        for _ in itertools.count():
            yield from self._loader

    def state(self) -> None:
        """It has none."""

    def _cut(self, clips: Iterator[tuple[bytes]]) -> Iterator[np.ndarray]:
        for (data,) in clips:
            clip, _ = soundfile.read(io.BytesIO(data), dtype="int16")
            yield from np.split(clip, range(self._samples, len(clip), self._samples))
