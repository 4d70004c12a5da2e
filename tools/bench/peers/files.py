"""A plain torch DataLoader over one WAV file a clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch.utils.data import Dataset

from shards.format.index import open_index
from tools.bench.contenders import Audio
from tools.bench.peers.loading import random_batches
from tools.bench.peers.task import Task


def prepare(task: Task) -> None:
    """The members of the tars as files."""
    index = open_index(task.audio / "wav", kind="audio")
    table, paths = index.table, index.paths
    for row in range(len(index)):
        with open(paths[table.shard[row]], "rb") as tar:
            tar.seek(int(table.offset[row]))
            data = tar.read(int(table.size[row]))
        (task.folder / f"{index.key(row)}.wav").write_bytes(data)


class _Files(Dataset[torch.Tensor]):
    def __init__(self, folder: Path, bounds: list[tuple[str, int, int]]) -> None:
        self._folder, self._bounds = folder, bounds

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, number: int) -> torch.Tensor:
        key, start, stop = self._bounds[number]
        path = self._folder / f"{key}.wav"
        samples, _ = soundfile.read(path, start=start, stop=stop, dtype="int16")
        return torch.from_numpy(samples)


class Reader:
    """A file opened by soundfile for each chunk, of which that part is read."""

    def __init__(self, task: Task, state: Any = None) -> None:
        assert state is None
        audio = Audio(task.audio, {"wav": open_index(task.audio / "wav", kind="audio")})
        self._task, self._files = task, _Files(task.folder, audio.chunk_bounds)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return random_batches(self._files, self._task)

    def state(self) -> None:
        """It has none."""
