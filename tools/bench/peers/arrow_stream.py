"""Hugging Face datasets as a stream: shuffled shards, a buffer, a state."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from datasets import load_from_disk
from datasets.distributed import split_dataset_by_node

from tools.bench.peers.arrow import prepare as prepare
from tools.bench.peers.loading import loader_options
from tools.bench.peers.task import SEED, SHUFFLE_BUFFER, Task

NUM_SHARDS = 16


class Reader:
    """An IterableDataset of NumPy arrays, which it makes int64, under a DataLoader."""

    def __init__(self, task: Task, state: Any = None) -> None:
        table = load_from_disk(str(task.folder)).with_format("numpy")
        stream = table.to_iterable_dataset(num_shards=NUM_SHARDS)
        stream = stream.shuffle(seed=SEED, buffer_size=SHUFFLE_BUFFER)
        if task.world_size > 1:
            stream = split_dataset_by_node(stream, task.rank, task.world_size)
        if state is not None:
            stream.load_state_dict(state)
        self._stream, self._task = stream, task

    def __iter__(self) -> Iterator[torch.Tensor]:
        loader = torch.utils.data.DataLoader(self._stream, **loader_options(self._task))
        for epoch in itertools.count():
            self._stream.set_epoch(epoch)
            for batch in loader:
                yield batch["chunk"]

    def state(self) -> Any:
        """What the library saves; the content of the buffer is not in it."""
        return self._stream.state_dict()
