"""The order of an epoch, as a pure function of integers.

Owns which chunk goes to which position of which global batch. Opens nothing, keeps
no state: (dataset, seed, epoch, step) says everything, so an order can be printed,
tested as a property, and resumed at any step at once.

An epoch's chunks, shards permuted, lie in one row that is cut into as many equal
streams as the global batch has positions; inside a stream, chunks are shuffled within
windows of a few shards. Step t takes the t-th chunk of every stream. So each shard is
read by one stream (two at a cut), every chunk is used exactly once but for the less
than one batch that is left over, all ranks have the same number of steps, and the
global batches do not depend on how many ranks share them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_SHARDS, _WINDOW = 0, 1  # what a random generator is for


@dataclass(frozen=True)
class Plan:
    """The order of all epochs of one training run."""

    num_chunks: np.ndarray
    """[R] chunks of each clip, in index order."""
    clips_per_shard: np.ndarray
    """[S] clips of each shard; sums to R."""
    global_batch_size: int
    seed: int
    window_shards: int = 4
    """Chunks are shuffled within windows of about this many shards."""

    def __post_init__(self) -> None:
        if int(self.clips_per_shard.sum()) != len(self.num_chunks):
            raise ValueError("clips_per_shard does not sum to the number of clips")
        if self.num_steps == 0:
            raise ValueError(
                f"{int(self.num_chunks.sum())} chunks do not fill one global batch of "
                f"{self.global_batch_size}; lower global_batch_size"
            )

    @functools.cached_property
    def num_steps(self) -> int:
        """Steps of every epoch, the same on every rank."""
        return int(self.num_chunks.sum()) // self.global_batch_size

    @functools.cached_property
    def window_steps(self) -> int:
        """Steps after which every stream begins a new window."""
        per_shard = -(-int(self.num_chunks.sum()) // len(self.clips_per_shard))
        return min(self.num_steps, per_shard * self.window_shards)

    def fingerprint(self, dataset: str) -> str:
        """Hash of all that decides the order, given the dataset's own fingerprint."""
        fields = (dataset, self.global_batch_size, self.seed, self.window_shards)
        digest = hashlib.sha256(repr(fields).encode())
        digest.update(np.ascontiguousarray(self.num_chunks, dtype="<i8").tobytes())
        return digest.hexdigest()

    def local_slice(self, rank: int, world_size: int) -> slice:
        """Positions of the global batch that ``rank`` owns.

        Raises ValueError if the batch cannot be shared equally.
        """
        if self.global_batch_size % world_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} cannot be shared by "
                f"{world_size} processes; make it a multiple of {world_size}"
            )
        local = self.global_batch_size // world_size
        return slice(rank * local, (rank + 1) * local)

    def steps(
        self, epoch: int, *, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows [b] and chunk numbers [b] of each step from ``start`` to the end.

        b is the rank's share of the global batch. Work and memory are those of the
        rank's own streams, one window at a time.
        """
        streams = range(self.global_batch_size)[self.local_slice(rank, world_size)]
        layout = _EpochLayout.of(self, epoch)
        for window_start in range(
            start - start % self.window_steps, self.num_steps, self.window_steps
        ):
            block = np.stack(
                [self._window(layout, epoch, s, window_start) for s in streams]
            )
            for step in range(max(start - window_start, 0), block.shape[1]):
                yield layout.locate(block[:, step])

    def shards_needed(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1
    ) -> np.ndarray:
        """Shards [n] that a rank reads from ``step`` to the end of its window, in the
        order of first use."""
        rest = self.window_steps - step % self.window_steps
        steps = self.steps(epoch, start=step, rank=rank, world_size=world_size)
        rows = np.concatenate([rows for rows, _ in itertools.islice(steps, rest)])
        ends = np.cumsum(self.clips_per_shard)
        shards, first = np.unique(
            np.searchsorted(ends, rows, side="right"), return_index=True
        )
        return shards[np.argsort(first)]

    def _window(
        self, layout: _EpochLayout, epoch: int, stream: int, start: int
    ) -> np.ndarray:
        """Chunk ids [W] of one stream for the steps of the window from ``start``."""
        stop = min(start + self.window_steps, self.num_steps)
        positions = stream * self.num_steps + np.arange(start, stop)
        rng = np.random.default_rng((self.seed, epoch, _WINDOW, stream, start))
        return layout.chunk_ids(rng.permutation(positions))


@dataclass(frozen=True)
class _EpochLayout:
    """Where each chunk lies in the row of one epoch."""

    first_chunk: np.ndarray
    """[R + 1] id of each clip's first chunk; ids count chunks in index order."""
    shard_first: np.ndarray
    """[S] id of the first chunk of each shard, in the order of the row."""
    shard_place: np.ndarray
    """[S + 1] position in the row where each shard, in the order of the row begins."""
    rotation: int
    """The row starts here, so that another remainder is left over each epoch."""

    @staticmethod
    def of(plan: Plan, epoch: int) -> _EpochLayout:
        rng = np.random.default_rng((plan.seed, epoch, _SHARDS))
        first_chunk = np.concatenate([[0], np.cumsum(plan.num_chunks, dtype=np.int64)])
        first_clip = np.concatenate([[0], np.cumsum(plan.clips_per_shard)])
        bounds = first_chunk[first_clip]
        order = rng.permutation(len(plan.clips_per_shard))
        sizes = np.diff(bounds)[order]
        return _EpochLayout(
            first_chunk=first_chunk,
            shard_first=bounds[:-1][order],
            shard_place=np.concatenate([[0], np.cumsum(sizes)]),
            rotation=int(rng.integers(first_chunk[-1])),
        )

    def chunk_ids(self, positions: np.ndarray) -> np.ndarray:
        """Ids of the chunks at ``positions`` of the row."""
        positions = (positions + self.rotation) % self.shard_place[-1]
        shard = np.searchsorted(self.shard_place, positions, side="right") - 1
        return self.shard_first[shard] + positions - self.shard_place[shard]

    def locate(self, chunk_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and chunk numbers of chunk ids."""
        rows = np.searchsorted(self.first_chunk, chunk_ids, side="right") - 1
        return rows, chunk_ids - self.first_chunk[rows]


def visit_batches(
    lengths: np.ndarray, batch_size: int, *, rank: int, world_size: int
) -> list[np.ndarray]:
    """Rows of the batches that ``rank`` visits so that all visit each row once.

    A batch holds clips of one length only, so nothing is padded and no score depends
    on the company a clip is in. Which batches exist does not depend on the world
    size; ranks take contiguous runs of them and may have unequal numbers.
    """
    order = np.argsort(lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(lengths[order])) + 1
    batches = [
        run[start : start + batch_size]
        for run in np.split(order, cuts)
        for start in range(0, len(run), batch_size)
    ]
    bounds = [len(batches) * r // world_size for r in (rank, rank + 1)]
    return batches[bounds[0] : bounds[1]]
