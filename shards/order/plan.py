"""The order of an epoch, as a pure function of integers.

Owns which chunk goes to which position of which global batch. Opens nothing, keeps
no state: (dataset, seed, epoch, step) says everything, so an order can be printed,
tested as a property, and resumed at any step at once.

An epoch's chunks, shards permuted, form one sequence that is cut into as many equal
streams as the global batch has positions; inside a stream, chunks are shuffled within
windows of a few shards. Step t takes the t-th chunk of every stream. So each shard is
read by one stream (two at a cut), every chunk is used exactly once except less than one
batch that is left over, all ranks have the same number of steps, and the global batches
do not depend on how many ranks share them.

With weights, the sequence of an epoch holds each clip as many times as its weight says
on average, its copies side by side; the rest stays as it is. All epochs have the same
number of steps: where an epoch's copies come out a little short, the beginning of the
sequence is used again, and what is too much is left over.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.order.copies import ONE, Units, fixed_point

_SHARDS, _WINDOW, _COPIES = 0, 1, 2  # what a random generator is for

_LOCATED_STEPS = 64  # together: 0.35 us a chunk; one by one 0.63 (2026-11-22)


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
    weights: np.ndarray | None = None
    """[R] expected copies of each clip in an epoch; None for exactly one of each."""

    def __post_init__(self) -> None:
        if int(self.clips_per_shard.sum()) != len(self.num_chunks):
            raise ValueError("clips_per_shard does not sum to the number of clips")
        if self.weights is not None:
            _check_weights(self.weights, len(self.num_chunks))
        if self.num_steps == 0:
            raise ValueError(
                f"{self._epoch_chunks} chunks do not fill one global batch of "
                f"{self.global_batch_size}; lower global_batch_size"
            )

    @functools.cached_property
    def num_steps(self) -> int:
        """Steps of every epoch, the same on every rank."""
        return self._epoch_chunks // self.global_batch_size

    @functools.cached_property
    def window_steps(self) -> int:
        """Steps after which every stream begins a new window."""
        per_unit = -(-self._epoch_chunks // len(self.units.num_entries))
        return min(self.num_steps, per_unit * self.window_shards)

    @functools.cached_property
    def units(self) -> Units:
        """What the sequence of every epoch is made of."""
        if self.weights is None:
            return Units.whole(self.num_chunks, self.clips_per_shard)
        return Units.repeated(self.num_chunks, self.clips_per_shard, self._fixed)

    @functools.cached_property
    def _fixed(self) -> np.ndarray:
        """[R] int64 weights, times ONE."""
        return fixed_point(np.ones(0) if self.weights is None else self.weights)

    @functools.cached_property
    def _epoch_chunks(self) -> int:
        """Chunks of an epoch, copies included; their expectation if there are weights.

        A sum of whole numbers, so that no two machines round it differently.
        """
        if self.weights is None:
            return int(self.num_chunks.sum())
        total = int((self._fixed * self.num_chunks).sum())
        return (total + ONE // 2) // ONE

    def fingerprint(self, dataset: str) -> str:
        """Hash of all that decides the order, given the dataset's own fingerprint."""
        fields = (dataset, self.global_batch_size, self.seed, self.window_shards)
        digest = hashlib.sha256(repr(fields).encode())
        digest.update(np.ascontiguousarray(self.num_chunks, dtype="<i8").tobytes())
        if self.weights is not None:
            digest.update(b"weights 2")  # 1 drew copies in another order
            digest.update(self._fixed.astype("<i8").tobytes())
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
            stop = min(window_start + self.window_steps, self.num_steps)
            block = np.empty((len(streams), stop - window_start), np.int64)
            for line, stream in zip(block, streams, strict=True):
                self._fill(line, layout, epoch, stream, window_start)
            for first in range(
                max(start - window_start, 0), block.shape[1], _LOCATED_STEPS
            ):
                steps = np.ascontiguousarray(block[:, first : first + _LOCATED_STEPS].T)
                yield from zip(*layout.locate(steps), strict=True)

    def shards_needed(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1
    ) -> np.ndarray:
        """Shards [n] that a rank reads from ``step`` to the end of its window.

        They are in the order of first use.
        """
        rest = self.window_steps - step % self.window_steps
        steps = self.steps(epoch, start=step, rank=rank, world_size=world_size)
        rows = np.concatenate([rows for rows, _ in itertools.islice(steps, rest)])
        ends = np.cumsum(self.clips_per_shard)
        shards, first = np.unique(
            np.searchsorted(ends, rows, side="right"), return_index=True
        )
        return shards[np.argsort(first)]

    def shards_of_window(
        self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1
    ) -> np.ndarray:
        """Shards [n] that hold a rank's chunks in the window of ``step``.

        Those of each stream in turn: which of them are read first is random. Unlike
        shards_needed, looks at no chunk: 0.02 s instead of 0.2 for a window of full
        AudioSet and batches of 32 (2026-11-29).
        """
        layout = _EpochLayout.of(self, epoch)
        start = step - step % self.window_steps
        length = min(self.window_steps, self.num_steps - start)
        streams = np.arange(self.global_batch_size)[self.local_slice(rank, world_size)]
        ends = np.cumsum(self.clips_per_shard)
        entries = np.concatenate([[0], np.cumsum(self.units.num_entries)])
        lines = [
            layout.unit_numbers(s * self.num_steps + start, length) for s in streams
        ]
        turns = itertools.zip_longest(*(line.tolist() for line in lines))
        units = [unit for turn in turns for unit in turn if unit is not None]
        rows = self.units.row[entries[layout.order[units]]]
        shards = np.searchsorted(ends, rows, side="right")
        return np.array(list(dict.fromkeys(shards.tolist())), np.int64)

    def _fill(
        self,
        line: np.ndarray,
        layout: _EpochLayout,
        epoch: int,
        stream: int,
        start: int,
    ) -> None:
        """Put the chunk ids of a stream's window from step ``start`` into ``line``."""
        first, done = stream * self.num_steps + start, 0
        for ids in layout.runs(first, first + len(line)):
            line[done : done + len(ids)] = ids
            done += len(ids)
        np.random.default_rng((self.seed, epoch, _WINDOW, stream, start)).shuffle(line)


def _check_weights(weights: np.ndarray, num_clips: int) -> None:
    """ValueError unless there is a finite weight >= 0 for each clip, 1 in sum."""
    if weights.shape != (num_clips,):
        raise ValueError(f"weights of shape {weights.shape} for {num_clips} clips")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ValueError(
            f"weight {weights[wrong[0]]} of row {wrong[0]}; expected 0 or more copies"
        )
    if fixed_point(weights).sum() < ONE:
        raise ValueError("weights sum to less than one clip in an epoch; raise them")


@dataclass(frozen=True)
class _EpochLayout:
    """Where each chunk lies in the sequence of one epoch."""

    units: Units
    first_chunk: np.ndarray
    """[V + 1] id of each entry's first chunk; ids count chunks in entry order."""
    order: np.ndarray
    """[U] the units in the order of the sequence."""
    unit_first: np.ndarray
    """[U] id of the first chunk of each unit, in the order of the sequence."""
    unit_place: np.ndarray
    """[U + 1] position in the sequence where each unit, in its order, begins."""
    rotation: int
    """The sequence starts here, so that another remainder is left over each epoch."""

    @staticmethod
    def of(plan: Plan, epoch: int) -> _EpochLayout:
        rng = np.random.default_rng((plan.seed, epoch, _SHARDS))
        units = plan.units
        counts = units.counts(np.random.default_rng((plan.seed, epoch, _COPIES)))
        first_chunk = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        first_entry = np.concatenate([[0], np.cumsum(units.num_entries)])
        bounds = first_chunk[first_entry]
        order = rng.permutation(len(units.num_entries))
        sizes = np.diff(bounds)[order]
        return _EpochLayout(
            units=units,
            first_chunk=first_chunk,
            order=order,
            unit_first=bounds[:-1][order],
            unit_place=np.concatenate([[0], np.cumsum(sizes)]),
            rotation=int(rng.integers(first_chunk[-1])),
        )

    def runs(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Ids of the chunks at positions ``start`` to ``stop``, unit by unit."""
        while start < stop:
            position = (start + self.rotation) % int(self.unit_place[-1])
            unit = int(np.searchsorted(self.unit_place, position, side="right")) - 1
            first = self.unit_first[unit] + position - self.unit_place[unit]
            length = min(stop - start, int(self.unit_place[unit + 1]) - position)
            yield np.arange(first, first + length)
            start += length

    def unit_numbers(self, start: int, length: int) -> np.ndarray:
        """Which units, by place in ``order``, hold ``length`` positions from one on."""
        total = int(self.unit_place[-1])
        first = start + self.rotation
        bounds = [first % total, (first + length - 1) % total]
        one, other = np.searchsorted(self.unit_place, bounds, side="right") - 1
        if length >= total:  # copies came out short, and the beginning is used again
            found = np.arange(len(self.order))
        elif bounds[0] <= bounds[1]:
            found = np.arange(one, other + 1)
        else:  # over the end of the sequence
            found = np.concatenate(
                [np.arange(one, len(self.order)), np.arange(other + 1)]
            )
        return found[self.unit_place[found] < self.unit_place[found + 1]]

    def locate(self, chunk_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and chunk numbers of chunk ids."""
        entry = np.searchsorted(self.first_chunk, chunk_ids, side="right") - 1
        chunk = (chunk_ids - self.first_chunk[entry]) % self.units.num_chunks[entry]
        return self.units.row[entry], chunk


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
