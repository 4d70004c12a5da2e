"""Plan + readers -> batches on the device.

Owns the threads that fetch ahead. Threads, not processes: a batch needs no copy
between them, and the codec and NumPy release the interpreter lock.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from psl.batch_memory import BatchMemory
from psl.chunking import Chunking, check_label_chunks
from psl.config import STRICT
from psl.losses import mix_targets
from psl.runtime import default_threads, num_local_processes
from psl.unlabelled import check_allowed, count_unlabelled
from shards.balance import sampling_weights
from shards.cache import DEFAULT_LIMIT_BYTES, ShardCache
from shards.index import Index
from shards.join import check_join, concatenate, open_each, open_indexes
from shards.plan import Plan
from shards.prefetch import Prefetcher
from shards.reader import MemberReader

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, config=STRICT)
class LoaderConfig:
    """How batches are fetched; changes nothing in them."""

    threads: int | None = Field(default=None, gt=0)
    """Threads per process that read and decode; null for the cores, at most 8."""
    prefetch: int = Field(default=8, gt=0)
    """Batches fetched ahead."""
    cache: str | None = None
    """Folder for shards of datasets at a URL, shared by all processes that name it;
    null for psl/shards in the user's cache folder. Best on a local disk."""
    cache_gb: float = Field(default=DEFAULT_LIMIT_BYTES / 1e9, gt=0)
    """Size of that folder at most, 1e9 bytes; least recently used shards make room."""


@functools.cache
def open_cache(config: LoaderConfig) -> ShardCache:
    """The cache of this process for remote shards."""
    return ShardCache(config.cache, round(config.cache_gb * 1e9))


def cache_share(config: LoaderConfig) -> int:
    """Bytes of the cache that each process of this machine may count on."""
    return open_cache(config).limit_bytes // num_local_processes()


@dataclasses.dataclass(frozen=True)
class Batch:
    """Chunks of clips on the device."""

    pcm: Tensor
    """[B, N] int16, zero after each chunk's end."""
    num_samples: Tensor
    """[B] int64, samples before the padding."""
    targets: Tensor
    """[B, C] float32 in [0, 1]."""

    @property
    def waveform(self) -> Tensor:
        """[B, N] float32 in [-1, 1)."""
        return to_waveform(self.pcm)


def read_chunks(
    reader: MemberReader,
    rows: np.ndarray,
    chunks: np.ndarray,
    chunking: Chunking,
    memory: BatchMemory,
) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms [B, N] int16, zero-padded, and their lengths [B] int64."""
    starts, stops = chunking.bounds(chunks, reader.index.table.count[rows])
    pieces, lengths = reader.pcm_bytes(rows, starts, stops), stops - starts
    if (lengths < chunking.chunk_samples).any():
        silence = np.zeros(2 * chunking.chunk_samples, np.uint8)
        pieces = [x for piece in pieces for x in (piece, silence[len(piece) :])]
    waveform = memory.take((len(rows), chunking.chunk_samples))
    np.concatenate(pieces, out=waveform.view(np.uint8).reshape(-1))
    return waveform, lengths


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A tensor on ``device``; the copy to a GPU does not wait for what runs there."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def to_waveform(pcm: Tensor) -> Tensor:
    """float32 in [-1, 1) from int16."""
    return pcm.to(torch.float32) / 32768.0


def fetch_ahead(
    make: Callable[[Item], Result], items: Iterable[Item], config: LoaderConfig
) -> Iterator[Result]:
    """``map(make, items)``, in order, with the next results made by threads.

    An exception in ``make`` is raised here, in its turn.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(config.threads or default_threads()) as pool:
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > config.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class WaitMeter:
    """An iterator that measures how long its consumer waits for it."""

    def __init__(self, source: Iterator[Batch]) -> None:
        self._source = source
        self.waited_seconds = 0.0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            return next(self._source)
        finally:
            self.waited_seconds += time.perf_counter() - start


def check_has_labels(audio: Index, purpose: str) -> None:
    """ValueError if no clip has a weak label."""
    if not len(audio.table.label):
        raise ValueError(
            f"{audio.where}: no clip has a label, so nothing to {purpose}; pack it "
            "from segments with labels"
        )


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Audio, and labels if any, joined and cut into chunks."""

    audio: MemberReader
    labels: MemberReader | None
    chunking: Chunking
    alpha: float
    """Weight of the pseudo labels against the weak ones."""
    clips_per_folder: tuple[int, ...]
    """Clips of each audio folder, in the order of the rows."""
    loader: LoaderConfig = LoaderConfig()
    memory: BatchMemory = dataclasses.field(default_factory=BatchMemory)
    """What batches are written to."""

    @staticmethod
    def open(
        audio_folders: list[str],
        label_folders: list[str] | None,
        *,
        chunk_seconds: float,
        alpha: float,
        max_unlabelled: float = 0.0,
        loader: LoaderConfig | None = None,
    ) -> TrainingData:
        """Open and join; raises ShardError or ValueError if they do not fit.

        Up to ``max_unlabelled`` of the clips may have a label row of no chunks; they
        are left out of the plan.
        """
        loader = loader or LoaderConfig()
        cache = open_cache(loader)
        folders = open_each(audio_folders, kind="audio")
        audio = concatenate(folders)
        if label_folders is None or alpha < 1:
            check_has_labels(audio, "train on weak labels")
        chunking = Chunking.of(chunk_seconds, audio.properties["sample_rate"])
        labels = None
        if label_folders is not None:
            index = open_indexes(label_folders, kind="labels")
            check_join(audio, index)
            check_label_chunks(index, audio, chunking)
            check_allowed(index, max_unlabelled)
            labels = MemberReader(index, cache)
        sizes = tuple(len(folder) for folder in folders)
        reader = MemberReader(audio, cache)
        return TrainingData(reader, labels, chunking, alpha, sizes, loader)

    def plan(
        self,
        global_batch_size: int,
        seed: int,
        *,
        balance: float | None = None,
        balance_limit: float = 1.0,
        mix: Sequence[float] | None = None,
    ) -> Plan:
        """The order in which training visits the chunks.

        Raises ValueError if there are too few chunks, if ``mix`` does not fit the
        folders, or if there is no label to balance by.
        """
        index = self.audio.index
        if balance is not None:
            check_has_labels(index, "balance")
        num_chunks = self.chunking.num_chunks(index.table.count)
        if self.labels is not None:
            num_chunks[self.labels.index.table.count == 0] = 0
        return Plan(
            num_chunks=num_chunks,
            clips_per_shard=np.array([shard.num_clips for shard in index.shards]),
            global_batch_size=global_batch_size,
            seed=seed,
            weights=sampling_weights(
                num_chunks,
                index.table.label_start,
                index.table.label,
                clips_per_folder=self.clips_per_folder,
                balance=balance,
                balance_limit=balance_limit,
                mix=mix,
            ),
        )

    def steps(
        self, plan: Plan, epoch: int, *, start: int, rank: int, world_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """``plan.steps``, with remote shards fetched a window ahead.

        Raises ValueError if the cache cannot hold a window.
        """
        steps = plan.steps(epoch, start=start, rank=rank, world_size=world_size)
        readers = [reader for reader in (self.audio, self.labels) if reader]
        if not any(reader.any_remote for reader in readers):
            yield from steps
            return
        needed = functools.partial(plan.shards_needed, rank=rank, world_size=world_size)
        with Prefetcher(readers, cache_share(self.loader)) as prefetcher:
            self._check_window(prefetcher, needed(epoch, start))
            for step, chunks in enumerate(steps, start=start):
                if step == start or step % plan.window_steps == 0:
                    prefetcher.want(_two_windows(plan, needed, epoch, step))
                yield chunks

    def _check_window(self, prefetcher: Prefetcher, shards: np.ndarray) -> None:
        """ValueError unless ``shards``, read in turns, can be in the cache together.

        Else almost every read would fetch a shard anew.
        """
        needed = sum(prefetcher.num_bytes(int(shard)) for shard in shards)
        if needed > prefetcher.max_bytes:
            enough = 1.01 * needed * num_local_processes()
            raise ValueError(
                f"{open_cache(self.loader).folder}: {len(shards)} shards of "
                f"{needed / 1e9:.3g} GB are read at a time, but each process of this "
                f"machine has {prefetcher.max_bytes / 1e9:.3g} GB of the cache; set "
                f"loader.cache_gb={enough / 1e9:.3g} or more, or pack smaller shards"
            )

    @property
    def num_unlabelled(self) -> int:
        """Clips that are left out because they could not be labelled."""
        return count_unlabelled(self.labels.index) if self.labels else 0

    @property
    def fingerprint(self) -> str:
        """What says whether two runs see the same examples."""
        labels = self.labels.index.fingerprint if self.labels else "weak"
        audio = self.audio.index.fingerprint
        return f"{audio}+{labels}+{self.alpha}+{self.chunking}"

    def batch(
        self, rows: np.ndarray, chunks: np.ndarray, device: torch.device
    ) -> Batch:
        """The chunks ``chunks`` [B] of clips ``rows`` [B] with their targets."""
        pcm, lengths = read_chunks(self.audio, rows, chunks, self.chunking, self.memory)
        return Batch(
            pcm=to_device(pcm, device),
            num_samples=to_device(lengths, device),
            targets=to_device(self._targets(rows, chunks), device),
        )

    def _targets(self, rows: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        """[B, C] float32."""
        index = self.audio.index
        weak = index.table.weak_targets(rows, len(index.classes))
        if self.labels is None:
            return weak
        pseudo = [  # copied, as a view of a remote shard keeps it in the cache
            self.labels.labels(int(row))[chunk].astype(np.float32)
            for row, chunk in zip(rows, chunks, strict=True)
        ]
        return mix_targets(np.stack(pseudo), weak, self.alpha)


def _two_windows(
    plan: Plan, needed: Callable[[int, int], np.ndarray], epoch: int, step: int
) -> Iterator[int]:
    """Shards in the order of need, from ``step`` to the end of the next window."""
    yield from needed(epoch, step).tolist()
    following = step - step % plan.window_steps + plan.window_steps
    if following < plan.num_steps:
        yield from needed(epoch, following).tolist()
    else:
        yield from needed(epoch + 1, 0).tolist()
