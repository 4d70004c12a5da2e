"""Our own order, reader and batches, as in training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from psl.data.batch_memory import BatchMemory
from psl.data.config import LoaderConfig
from psl.data.loader import fetch_ahead, read_chunks
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import open_index
from shards.order.plan import Plan
from tools.bench.contenders import CHUNK_SECONDS
from tools.bench.peers.task import SEED, Task


def prepare(task: Task) -> None:
    """Nothing: the clips lie there as WAV in tars."""


class Reader:
    """As tools/bench/peers/task.py says."""

    def __init__(self, task: Task, state: Any = None) -> None:
        index = open_index(task.audio / "wav", kind="audio")
        rate = index.properties["sample_rate"]
        self._task, self._reader = task, MemberReader(index)
        self._chunking = Chunking.from_seconds(CHUNK_SECONDS, rate)
        self._memory = BatchMemory()
        self._plan = Plan(
            num_chunks=self._chunking.num_chunks(index.table.count),
            clips_per_shard=np.array([shard.num_clips for shard in index.shards]),
            global_batch_size=task.batch_size * task.world_size,
            seed=SEED,
        )
        self._steps_done = 0 if state is None else int(state)

    def __iter__(self) -> Iterator[np.ndarray]:
        steps, threads = self._steps(), self._task.workers
        batches = (
            fetch_ahead(self._batch, steps, LoaderConfig(threads=threads))
            if threads
            else map(self._batch, steps)
        )
        for batch in batches:
            self._steps_done += 1
            yield batch

    def state(self) -> int:
        """The number of steps done."""
        return self._steps_done

    def _steps(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first, start = divmod(self._steps_done, self._plan.num_steps)
        for epoch in itertools.count(first):
            yield from self._plan.steps(
                epoch,
                start=start if epoch == first else 0,
                rank=self._task.rank,
                world_size=self._task.world_size,
            )

    def _batch(self, step: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return read_chunks(self._reader, *step, self._chunking, self._memory)[0]
