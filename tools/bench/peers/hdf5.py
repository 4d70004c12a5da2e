"""Upstream's way: an HDF5 file with one dataset a clip, under a torch DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from shards.format.index import open_index
from tools.bench.contenders import Audio, Hdf5Chunks
from tools.bench.peers.loading import random_batches
from tools.bench.peers.task import Task


def prepare(task: Task) -> None:
    """Nothing: tools/bench/contenders.py has made the file."""


class Reader:
    """Chunks in random order, int16 to float32 over float64."""

    def __init__(self, task: Task, state: Any = None) -> None:
        assert state is None
        index = open_index(task.audio / "wav", kind="audio")
        self._task, self._chunks = task, Hdf5Chunks(Audio(task.audio, {"wav": index}))

    def __iter__(self) -> Iterator[torch.Tensor]:
        return random_batches(self._chunks, self._task)

    def state(self) -> None:
        """It has none."""
