"""mosaicml-streaming: one chunk a sample in MDS shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

from tools.bench.peers.clips import chunk_samples, each_chunk
from tools.bench.peers.loading import loader_options
from tools.bench.peers.task import SEED, Task


def prepare(task: Task) -> None:
    """The chunks in shards of the library's own size."""
    columns = {"chunk": f"ndarray:int16:{chunk_samples(task.audio)}"}
    with MDSWriter(out=str(task.folder), columns=columns) as writer:
        for chunk in each_chunk(task.audio):
            writer.write({"chunk": chunk})


class Reader:
    """StreamingDataset on a local folder, its shuffle, StreamingDataLoader."""

    def __init__(self, task: Task, state: Any = None) -> None:
        dataset = StreamingDataset(
            local=str(task.folder),
            shuffle=True,
            shuffle_seed=SEED,
            batch_size=task.batch_size,
            num_canonical_nodes=1,
        )
        self._loader = StreamingDataLoader(dataset, **loader_options(task))
        if state is not None:
            self._loader.load_state_dict(state)

    def __iter__(self) -> Iterator[Any]:
        while True:
            for batch in self._loader:
                yield batch["chunk"]

    def state(self) -> Any:
        """What the library saves."""
        return self._loader.state_dict()
