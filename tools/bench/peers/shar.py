"""lhotse: clips as WAV in its shar format, cut into windows while reading."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lhotse import CutSet, Recording
from lhotse.audio import set_current_audio_backend
from lhotse.dataset import DynamicCutSampler, IterableDatasetWrapper
from lhotse.dataset.collation import collate_audio

from shards.audio.members import encode
from shards.dataset.reader import MemberReader
from shards.format.index import open_index
from tools.bench.contenders import CHUNK_SECONDS, CLIPS_PER_SHARD
from tools.bench.peers.task import SEED, SHUFFLE_BUFFER, Task


def prepare(task: Task) -> None:
    """The clips in shards of as many as ours."""
    use_libsndfile()
    reader = MemberReader(open_index(task.audio / "wav", kind="audio"))
    rate = reader.index.properties["sample_rate"]

    def cuts() -> Iterator[Any]:
        for row in range(len(reader.index)):
            clip = np.array(reader.samples(row, 0, int(reader.index.table.count[row])))
            wav = io.BytesIO(encode(clip, codec="wav", sample_rate=rate)).getvalue()
            key = reader.index.key(row)
            yield Recording.from_bytes(wav, recording_id=key).to_cut()

    CutSet.from_cuts(cuts()).to_shar(
        str(task.folder), fields={"recording": "wav"}, shard_size=CLIPS_PER_SHARD
    )


def use_libsndfile() -> None:
    """Read by libsndfile, as the other ways do, rather than try what is installed."""
    set_current_audio_backend("LibsndfileBackend")


class _Waveforms(torch.utils.data.Dataset[torch.Tensor]):
    def __getitem__(self, cuts: Any) -> torch.Tensor:
        return collate_audio(cuts)[0]


class Reader:
    """Lazy shar, shuffled shards, windows, a shuffling sampler, as its guide says."""

    def __init__(self, task: Task, state: Any = None) -> None:
        use_libsndfile()
        cuts = CutSet.from_shar(
            in_dir=str(task.folder),
            shuffle_shards=True,
            stateful_shuffle=True,
            seed=SEED,
            split_for_dataloading=True,  # among ranks and workers
        )
        self._sampler = DynamicCutSampler(
            cuts.cut_into_windows(CHUNK_SECONDS),
            max_cuts=task.batch_size,
            shuffle=True,
            shuffle_buffer_size=SHUFFLE_BUFFER,
            seed=SEED,
            drop_last=True,
            rank=0,
            world_size=1,
        )
        if state is not None:
            self._sampler.load_state_dict(state)
        self._workers = task.workers

    def __iter__(self) -> Iterator[torch.Tensor]:
        dataset = IterableDatasetWrapper(_Waveforms(), self._sampler)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=None, num_workers=self._workers
        )
        for epoch in itertools.count():
            if epoch:
                dataset.set_epoch(epoch)
            yield from loader

    def state(self) -> Any:
        """What the library saves of its sampler."""
        return self._sampler.state_dict()
