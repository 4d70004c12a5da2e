"""Our shards as a pipeline of the webdataset library, for training loops built on it.

Owns what a sample of that pipeline is. The samples are the trainer's examples in the
trainer's order (shards/order/plan.py), read by the index, so nothing in a tar is
searched, decoded by its suffix or run: of webdataset only DataPipeline is used, never
gopen, its decoders or its shard lists. It is imported late, as it imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import Index, open_index
from shards.format.join import check_join
from shards.order.plan import Plan

if TYPE_CHECKING:
    import webdataset

DEFAULT_CHUNK_SECONDS = 10.0


@dataclass(frozen=True)
class Order:
    """First stage: which chunks, in the order of an epoch, for this rank and worker."""

    plan: Plan
    epoch: int
    rank: int
    world_size: int

    def __call__(self) -> Iterator[dict[str, int]]:
        """Row and chunk of each sample."""
        from webdataset.utils import pytorch_worker_info

        # A DataLoader takes a batch of each worker in turn. Whole steps are dealt to
        # the workers, so batches of a step's size come out in the order of the plan.
        worker, num_workers = pytorch_worker_info()[2:]
        steps = self.plan.steps(self.epoch, rank=self.rank, world_size=self.world_size)
        for number, (rows, chunks) in enumerate(steps):
            if number % num_workers == worker:
                for row, chunk in zip(rows.tolist(), chunks.tolist(), strict=True):
                    yield {"row": row, "chunk": chunk}


@dataclass(frozen=True)
class ReadChunks:
    """Second stage: the waveform and the labels of each chunk."""

    audio: Index
    labels: Index | None
    chunking: Chunking

    def __call__(self, chosen: Iterable[dict[str, int]]) -> Iterator[dict[str, Any]]:
        """The samples of ``chosen`` rows and chunks."""
        audio = MemberReader(self.audio)
        labels = None if self.labels is None else MemberReader(self.labels)
        num_classes = len(self.audio.classes)
        for item in chosen:
            row, chunk = item["row"], item["chunk"]
            rows, chunks = np.array([row]), np.array([chunk])
            start, stop = self.chunking.bounds(chunk, self.audio.table.count[row])
            waveform = np.zeros(self.chunking.chunk_samples, np.float32)
            pcm = audio.samples(row, int(start), int(stop))
            waveform[: len(pcm)] = pcm / np.float32(32768)
            weak = self.audio.table.weak_targets(rows, num_classes)[0]
            pseudo = weak
            if labels is not None:
                found = labels.chunk_labels(rows, chunks, np.zeros_like(rows))
                pseudo = found[0].astype(np.float32)
            yield {
                "__key__": self.audio.key(row),
                "__url__": self.audio.places[self.audio.table.shard[row]],
                "chunk": chunk,
                "waveform": waveform,
                "num_samples": len(pcm),
                "chunk_labels": pseudo,
                "weak_labels": weak,
            }


def as_webdataset(
    audio: str | Path,
    labels: str | Path | None = None,
    *,
    chunk_seconds: float | None = None,
    global_batch_size: int = 32,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> webdataset.DataPipeline:
    """One epoch of a dataset as a ``webdataset.DataPipeline``, chunk by chunk.

    The samples are the examples of ``psl.train`` with the same ``seed`` and
    ``global_batch_size``, in its order; each process gives its ``rank``. They are
    dictionaries: ``__key__`` (of the clip), ``__url__`` (the tar), ``chunk`` (number
    in the clip), ``waveform`` [N] float32 in [-1, 1), zero after its ``num_samples``,
    ``chunk_labels`` [C] float32 (pseudo labels in [0, 1]; without ``labels`` the weak
    ones) and ``weak_labels`` [C] float32 in {0, 1}.

    Chunks are those of ``labels``; without them, of ``chunk_seconds`` (default 10) one
    after the other. With worker processes of a DataLoader, keep its batch size at
    ``global_batch_size // world_size``: batches then come in the trainer's order.

    >>> pipeline = shards.as_webdataset("data/balanced", labels="data/labels_2s")
    >>> pipeline = pipeline.compose(
    ...     webdataset.to_tuple("waveform", "chunk_labels", "__key__")
    ... )
    >>> for waveforms, targets, keys in DataLoader(pipeline, batch_size=32):
    ...     ...

    Raises ShardError if a dataset is missing or damaged or the two do not fit,
    ValueError for labels with several views or without chunks for a clip, and if the
    batch cannot be shared or filled.
    """
    import webdataset

    index = open_index(audio, kind="audio")
    label_index = None if labels is None else open_index(labels, kind="labels")
    chunking = _chunking(index, label_index, chunk_seconds)
    plan = Plan(
        num_chunks=chunking.num_chunks(index.table.count),
        clips_per_shard=np.array([shard.num_clips for shard in index.shards]),
        global_batch_size=global_batch_size,
        seed=seed,
    )
    plan.local_slice(rank, world_size)  # an error now rather than in the first batch
    return webdataset.DataPipeline(
        Order(plan, epoch, rank, world_size), ReadChunks(index, label_index, chunking)
    )


def _chunking(
    audio: Index, labels: Index | None, chunk_seconds: float | None
) -> Chunking:
    """How clips are cut: as the labels were, or every ``chunk_seconds``."""
    rate = audio.properties["sample_rate"]
    if labels is None:
        seconds = DEFAULT_CHUNK_SECONDS if chunk_seconds is None else chunk_seconds
        return Chunking.from_seconds(seconds, rate)
    check_join(audio, labels)
    found = labels.properties
    if "chunk_samples" not in found or "hop_samples" not in found:
        raise ShardError(f"{labels.where}: does not say how clips were cut; relabel it")
    chunking = Chunking(found["chunk_samples"], found["hop_samples"])
    if chunk_seconds is not None and chunking.chunk_samples != round(
        chunk_seconds * rate
    ):
        raise ValueError(
            f"{labels.where}: labels are for chunks of "
            f"{chunking.chunk_samples / rate:g} s, but chunk_seconds is "
            f"{chunk_seconds:g}; leave it out"
        )
    if found.get("views", 1) > 1:
        raise ValueError(
            f"{labels.where}: labels of {found['views']} views, whose waveforms psl "
            "makes; use psl.open_chunks(...).stream(...), or labels of one view"
        )
    wrong = np.flatnonzero(labels.table.count != chunking.num_chunks(audio.table.count))
    if len(wrong):
        raise ValueError(
            f"{labels.place(int(wrong[0]))} and {len(wrong) - 1} more clips do not "
            "have a label for each chunk; label again, or use psl.open_chunks(...) "
            "with max_unlabelled"
        )
    return chunking
