"""The clips of a shard -> batches of chunks -> label rows.

Owns which chunks a teacher sees together, and what becomes of its probabilities. Which
shards, and when they are read, scored and written, is psl/labelling/worker.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from psl.data.batch_memory import BatchMemory
from psl.data.labels import LabelLayout
from psl.data.loader import read_windows
from psl.labelling.hearing import CHUNK_ALONE, Hearing
from shards.dataset.reader import MemberReader
from shards.dataset.writer import Row
from shards.errors import ClipError, ShardError
from shards.format.index import Index
from shards.system.exits import JobError


@dataclass(frozen=True)
class ChunkBatch:
    """Chunks that a teacher sees together."""

    rows: np.ndarray
    """[B] the clip of each."""
    chunks: np.ndarray
    """[B] its number in the clip."""
    views: np.ndarray
    """[B] the view of it."""


@dataclass(frozen=True)
class ShardChunks:
    """The chunks of one shard, in the order in which a teacher sees them.

    Batches fill across clips and end with the shard, so what a shard holds depends on
    nothing but the shard: other sizes of a batch round otherwise.
    """

    rows: np.ndarray
    """[R] the clips of the shard."""
    num_chunks: np.ndarray
    """[R] chunks of each."""
    num_views: int
    """Of each chunk; those of a clip come view by view."""

    @staticmethod
    def of(index: Index, shard: int, layout: LabelLayout) -> ShardChunks:
        """Those of shard number ``shard``."""
        rows = np.flatnonzero(index.table.shard == shard)
        num_chunks = layout.chunking.num_chunks(index.table.count[rows])
        return ShardChunks(rows, num_chunks, layout.form.views)

    def batches(self, batch_size: int) -> list[ChunkBatch]:
        """All chunks, ``batch_size`` at a time; none if the shard has no clip."""
        clips = np.repeat(np.arange(len(self.rows)), self.num_views * self.num_chunks)
        num_chunks = self.num_chunks[clips]
        within = np.arange(len(clips)) - self.bounds[clips]
        columns = self.rows[clips], within % num_chunks, within // num_chunks
        return [
            ChunkBatch(*(column[at : at + batch_size] for column in columns))
            for at in range(0, len(clips), batch_size)
        ]

    @property
    def bounds(self) -> np.ndarray:
        """[R + 1] where each clip begins among all chunks and views."""
        return np.concatenate([[0], np.cumsum(self.num_views * self.num_chunks)])


@dataclass(frozen=True)
class PcmBatch:
    """What is heard for a ChunkBatch."""

    pcm: np.ndarray
    """[B, N] int16, zero after what is heard, and where it is unreadable."""
    lengths: np.ndarray
    """[B] int64, samples before the padding."""
    unreadable: Mapping[int, str]
    """Clips that do not decode, by row, and why."""


def read_batch(
    reader: MemberReader,
    batch: ChunkBatch,
    layout: LabelLayout,
    memory: BatchMemory,
    *,
    forgive: bool,
    hearing: Hearing = CHUNK_ALONE,
) -> PcmBatch:
    """What a teacher hears for a batch, each chunk in its view.

    Raises ClipError naming the first clip that does not decode; to ``forgive`` means
    to give zeros for it, so that the batch has the shape that it always has. A shard
    that is missing or too short is never forgiven.
    """
    counts = reader.index.table.count
    bounds = hearing.bounds(layout.chunking, batch.chunks, counts[batch.rows])
    width = hearing.width(layout.chunking, counts)
    try:
        pcm, lengths = read_windows(reader, batch.rows, bounds, width, memory)
        read = PcmBatch(pcm, lengths, {})
    except ShardError:
        if not forgive:
            raise
        read = _read_readable(reader, batch.rows, bounds, width, memory)
    layout.augmentation.apply(
        read.pcm,
        read.lengths,
        keys=reader.index.table.key[batch.rows],
        chunks=batch.chunks,
        views=batch.views,
    )
    pcm, lengths = hearing.filled(read.pcm, read.lengths, memory)
    return replace(read, pcm=pcm, lengths=lengths)


def _read_readable(
    reader: MemberReader,
    rows: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    width: int,
    memory: BatchMemory,
) -> PcmBatch:
    """What read_batch() forgives, chunk by chunk."""
    unreadable: dict[int, str] = {}
    pcm = memory.take((len(rows), width))
    starts, stops = bounds
    pcm[:] = 0
    for place, row in enumerate(rows.tolist()):
        try:
            samples = reader.samples(row, int(starts[place]), int(stops[place]))
            pcm[place, : len(samples)] = samples
        except ClipError as error:
            unreadable[row] = str(error)
    return PcmBatch(pcm, stops - starts, unreadable)


def label_rows(
    index: Index,
    shard: ShardChunks,
    layout: LabelLayout,
    probs: np.ndarray,
    unreadable: Mapping[int, str],
    *,
    teacher: str,
) -> Iterator[Row]:
    """The label rows of a shard from the probabilities of its chunks [V * sum(K), C].

    An unreadable clip has a row of no chunks. Raises JobError naming clip and teacher
    where a probability is none.
    """
    starts, stops = shard.bounds[:-1], shard.bounds[1:]
    starts = np.where(np.isin(shard.rows, list(unreadable)), stops, starts)
    for row, start, stop in zip(shard.rows.tolist(), starts, stops, strict=True):
        clip_probs = probs[start:stop]
        try:
            data = layout.encode(clip_probs)
        except ValueError as error:
            place = index.place(row)
            raise JobError(f"{place}: from teacher {teacher}: {error}") from None
        count = len(clip_probs) // shard.num_views
        yield Row(key=index.key(row), suffix="npy", data=data, count=count)
