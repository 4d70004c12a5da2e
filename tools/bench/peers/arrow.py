"""Hugging Face datasets: one chunk a row of an Arrow table on disk, by number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset, Features, List, Value, load_from_disk

from tools.bench.peers.clips import chunk_samples, each_chunk
from tools.bench.peers.loading import random_batches
from tools.bench.peers.task import Task


def prepare(task: Task) -> None:
    """The chunks as fixed-size lists of int16."""
    length = chunk_samples(task.audio)
    features = Features({"chunk": List(Value("int16"), length=length)})
    table = Dataset.from_generator(
        _rows, gen_kwargs={"audio": task.audio}, features=features
    )
    table.save_to_disk(str(task.folder), max_shard_size="64MB")


def _rows(audio: Any) -> Iterator[dict[str, Any]]:
    for chunk in each_chunk(audio):
        yield {"chunk": chunk}


class Reader:
    """Map-style, torch format, under a DataLoader that shuffles."""

    def __init__(self, task: Task, state: Any = None) -> None:
        assert state is None
        self._task = task
        self._table = load_from_disk(str(task.folder)).with_format(
            "torch", dtype=torch.int16
        )

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in random_batches(self._table, self._task):
            yield batch["chunk"]

    def state(self) -> None:
        """It has none."""
