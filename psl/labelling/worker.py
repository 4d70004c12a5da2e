"""One labelling process: reads, scores and writes shards as a pipeline.

Owns the order of work: while the teacher scores a batch, threads decode the next ones
and compute their features, also those of the next shard, and one thread writes the
shard before. Which processes there are, and who has which shard, is settled by
shards/system/claims.py alone.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from psl.data.batch import Prepared, pinned, prepared_by, to_device, to_waveform
from psl.data.batch_memory import BatchMemory
from psl.data.config import LoaderConfig
from psl.data.labels import LabelLayout
from psl.distributed.runtime import default_threads
from psl.job.stop import StopRequest
from psl.labelling.calibration_file import Calibration
from psl.labelling.hearing import CHUNK_ALONE, Hearing
from psl.labelling.rows import ChunkBatch, ShardChunks, label_rows, read_batch
from shards.dataset.prefetch import Prefetcher
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder
from shards.system.claims import Claim, ClaimLost, Claims

_log = logging.getLogger(__name__)

SHARDS_IN_HAND = 3
"""Claimed by one process at a time: one being read, one scored and one written."""
SHARDS_AHEAD = 3
"""Remote shards fetched while the first of them is labelled."""
LOOK_SECONDS = (0.1, 5.0)
"""Between two looks at the folder when nothing is free: at first, and at most."""

Prepare = Callable[[Tensor, Tensor], Prepared]
"""Waveforms [B, N] float32 in [-1, 1) and their lengths [B], on the host -> what the
teacher computes of them there."""
Score = Callable[[Tensor, Tensor, Prepared | None], Tensor]
"""The same on the device, and what Prepare gave -> probabilities [B, C]."""


@dataclass(frozen=True)
class Work:
    """What is labelled with what; the same for all processes of a job."""

    reader: MemberReader
    layout: LabelLayout
    builder: DatasetBuilder
    score: Score
    device: torch.device
    batch_size: int
    loader: LoaderConfig
    blame: Callable[[], str]
    """Names the members that gave an invalid probability; may wait for the device."""
    max_unreadable: int
    """Clips that may fail to decode; they are counted, unless this is 0."""
    calibration: Calibration | None = None
    hearing: Hearing = CHUNK_ALONE
    prepare: Prepare | None = None
    """Called by the threads that read; None if all of the teacher is in ``score``."""

    @property
    def names(self) -> list[str]:
        """The names of all shards, by number."""
        return [shard.name for shard in self.reader.index.shards]


@dataclass
class _Shard:
    """A shard in hand."""

    claim: Claim
    chunks: ShardChunks
    batches_left: int
    probs: list[Tensor] = field(default_factory=list)
    """[B, C] on the host, or on the way there."""
    unreadable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Heard:
    """A batch that was read, ready to be copied to the device.

    For a GPU it is in pinned memory, unless the system refuses that.
    """

    pcm: Tensor
    """[B, N] int16."""
    lengths: Tensor
    """[B] int64, samples before the padding."""
    prepared: Prepared | None
    """What the teacher has computed of it on the host."""
    unreadable: Mapping[int, str]
    """Clips that do not decode, by row, and why."""


class ShardQueue:
    """The shards that are left, taken one at a time."""

    def __init__(
        self, names: Sequence[str], builder: DatasetBuilder, claims: Claims
    ) -> None:
        self._builder, self._claims = builder, claims
        # every process begins elsewhere, so that they seldom want the same shard
        start = int(claims.token, 16) % len(names)
        self.order = [*names[start:], *names[:start]]
        self.done: set[str] = set()
        """Names of the shards that were done at the last look."""
        self._candidates: deque[str] = deque()
        self._next_look, self._pause = 0.0, LOOK_SECONDS[0]

    @property
    def all_done(self) -> bool:
        """Whether every shard was done at the last look."""
        return len(self.done) == len(self.order)

    def take(self) -> Claim | None:
        """Claim a shard; None if none is free now, or was none a moment ago."""
        while self._candidates or self._look():
            name = self._candidates.popleft()
            if self._builder.has_record(name):
                continue
            if (claim := self._claims.take(name)) is None:
                continue
            if self._builder.has_record(name):  # done before we had the claim
                claim.release()
                continue
            self._next_look, self._pause = 0.0, LOOK_SECONDS[0]
            return claim
        return None

    def upcoming(self, name: str) -> list[str]:
        """The shards that are likely to be taken after ``name``."""
        return [name, *list(self._candidates)[: SHARDS_AHEAD - 1]]

    def _look(self) -> bool:
        """List the folder, unless that was a moment ago; whether there are any left."""
        if time.monotonic() < self._next_look:
            return False
        self.done = self._builder.recorded() & set(self.order)
        self._candidates = deque(name for name in self.order if name not in self.done)
        self._next_look = time.monotonic() + self._pause
        longest = min(LOOK_SECONDS[1], self._claims.lease_seconds / 4)
        self._pause = min(1.5 * self._pause, longest)
        return bool(self._candidates)


class ShardWorker:
    """Makes shards for as long as there are any to be had."""

    def __init__(
        self,
        work: Work,
        queue: ShardQueue,
        claims: Claims,
        *,
        prefetcher: Prefetcher,
        stop: StopRequest,
        on_written: Callable[[int], object],
    ) -> None:
        """``on_written`` gets the number of clips of each shard that was written."""
        self._work, self._queue, self._claims = work, queue, claims
        self._prefetcher, self._stop, self._on_written = prefetcher, stop, on_written
        self._memory = BatchMemory.for_device(work.device)
        self._numbers = {name: number for number, name in enumerate(work.names)}
        self._reading: _Shard
        self._writer: ThreadPoolExecutor
        self._batches: Iterator[ChunkBatch] = iter(())
        self._writes: deque[Future[None]] = deque()
        self._num_reading = 0
        self.waited_seconds = 0.0
        """In which there was no batch to score."""
        self.unreadable: dict[int, str] = {}
        """Clips, by row, that this process could not decode, and why."""

    @property
    def has_too_many_unreadable(self) -> bool:
        """Whether more clips than allowed did not decode."""
        return len(self.unreadable) > self._work.max_unreadable

    def run(self) -> None:
        """Label shards until all are done or claimed by others, or a stop is asked for.

        So, too, once has_too_many_unreadable. All that was begun is then written, or
        after a stop given up. Raises ShardError or JobError naming the clip that
        cannot be labelled, OSError for a full disk.
        """
        threads = self._work.loader.threads or default_threads()
        with (
            ThreadPoolExecutor(threads, "label read") as readers,
            ThreadPoolExecutor(1, "label write") as writer,
        ):
            self._writer = writer
            try:
                for shard, batch in self._read_ahead(readers):
                    self._score(shard, batch)
                    self._claims.progress()
                    if self._stop.is_made or self.has_too_many_unreadable:
                        return
                while self._writes:
                    self._wait_for_write()
            finally:
                for write in self._writes:
                    write.cancel()

    def _read_ahead(
        self, readers: ThreadPoolExecutor
    ) -> Iterator[tuple[_Shard, _Heard]]:
        """Batches in the order of scoring, the next ones being read meanwhile."""
        pending: deque[tuple[_Shard, Future[_Heard]]] = deque()
        try:
            while True:
                while len(pending) <= self._work.loader.prefetch:
                    if (batch := self._next_batch()) is None:
                        break
                    pending.append((self._reading, readers.submit(self._read, batch)))
                if pending:
                    shard, future = pending.popleft()
                    start = time.perf_counter()
                    batch_read = future.result()
                    self.waited_seconds += time.perf_counter() - start
                    yield shard, batch_read
                elif self._writes:  # too much in hand to take another shard
                    self._wait_for_write()
                else:
                    return
        finally:
            for _, future in pending:
                future.cancel()

    def _next_batch(self) -> ChunkBatch | None:
        """The next batch to read, of a new shard if need be; None if there is none."""
        while (batch := next(self._batches, None)) is None:
            self._check_writes()
            if self._num_reading + len(self._writes) >= SHARDS_IN_HAND:
                return None
            if (claim := self._queue.take()) is None:
                return None
            self._begin(claim)
        return batch

    def _begin(self, claim: Claim) -> None:
        self._prefetcher.want(
            [self._numbers[name] for name in self._queue.upcoming(claim.name)]
        )
        work, number = self._work, self._numbers[claim.name]
        chunks = ShardChunks.of(work.reader.index, number, work.layout)
        batches = chunks.batches(work.batch_size)
        self._reading = _Shard(claim, chunks, len(batches))
        self._batches, self._num_reading = iter(batches), self._num_reading + 1
        if not batches:
            self._finish(self._reading)

    def _read(self, batch: ChunkBatch) -> _Heard:
        """What is heard for a batch. In a thread that reads, pinning included."""
        work = self._work
        read = read_batch(
            work.reader,
            batch,
            work.layout,
            self._memory,
            hearing=work.hearing,
            forgive=work.max_unreadable > 0,
        )
        pin = functools.partial(pinned, device=work.device)
        pcm, lengths = torch.from_numpy(read.pcm), torch.from_numpy(read.lengths)
        prepared = None
        if work.prepare is not None:
            prepared = prepared_by(work.prepare(to_waveform(pcm), lengths), pin)
        return _Heard(pcm, pin(lengths), prepared, read.unreadable)

    def _score(self, shard: _Shard, batch: _Heard) -> None:
        """Have the teacher look at a batch; on a GPU, without waiting for it."""
        shard.unreadable.update(batch.unreadable)
        self.unreadable.update(batch.unreadable)
        if not shard.claim.lost:
            device = self._work.device
            waveform = to_waveform(self._memory.to_device(batch.pcm, device))
            lengths = to_device(batch.lengths, device)
            probs = self._work.score(waveform, lengths, batch.prepared)
            shard.probs.append(probs.to("cpu", non_blocking=True))
        shard.batches_left -= 1
        if not shard.batches_left:
            self._finish(shard)

    def _finish(self, shard: _Shard) -> None:
        """Have a scored shard written."""
        self._num_reading -= 1
        scored = None
        if self._work.device.type == "cuda":
            scored = torch.cuda.Event()
            # the current device need not be the one that the teacher is on
            scored.record(torch.cuda.current_stream(self._work.device))
        self._writes.append(self._writer.submit(self._write, shard, scored))

    def _write(self, shard: _Shard, scored: torch.cuda.Event | None) -> None:
        """Write a shard, unless another process has taken it over. In its thread."""
        if scored is not None:
            scored.synchronize()
        work, claim = self._work, shard.claim
        index = work.reader.index
        probs = np.concatenate(
            [np.zeros((0, len(index.classes)), np.float32)]
            + [batch.numpy() for batch in shard.probs]
        )
        if work.calibration is not None:
            probs = work.calibration.apply(probs)
        rows = label_rows(
            index,
            shard.chunks,
            work.layout,
            probs,
            shard.unreadable,
            teacher=work.blame(),
        )
        notes = [
            [index.key(row), "unlabelled", reason]
            for row, reason in sorted(shard.unreadable.items())
        ]
        try:
            if work.builder.begin():  # refuses again: two jobs may begin at one moment
                work.builder.add(claim.name, claim.guard(rows), notes)
            self._on_written(len(shard.chunks.rows))
        except ClaimLost:
            _log.warning(
                "%s: taken over by another process, which labels it", claim.name
            )
        finally:
            claim.release()

    def _check_writes(self) -> None:
        while self._writes and self._writes[0].done():
            self._wait_for_write()

    def _wait_for_write(self) -> None:
        """Wait for the oldest write; its error is raised here."""
        self._writes.popleft().result()
