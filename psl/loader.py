"""Plan + readers -> batches on the device.

Owns the threads that fetch ahead. Threads, not processes: a batch needs no copy
between them, and the codec and NumPy release the interpreter lock.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from psl.chunking import Chunking, check_label_chunks
from psl.config import STRICT
from psl.losses import mix_targets
from psl.runtime import default_threads
from shards.join import check_join, open_indexes
from shards.plan import Plan
from shards.reader import MemberReader
from shards.schema import check_probs

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, config=STRICT)
class LoaderConfig:
    """How batches are fetched; changes nothing in them."""

    threads: int | None = Field(default=None, gt=0)
    """Threads per process that read and decode; null for the cores, at most 8."""
    prefetch: int = Field(default=8, gt=0)
    """Batches fetched ahead."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Chunks of clips on the device."""

    waveform: Tensor
    """[B, N] float32 in [-1, 1), zero after each chunk's end."""
    num_samples: Tensor
    """[B] int64, samples before the padding."""
    targets: Tensor
    """[B, C] float32 in [0, 1]."""


def read_chunks(
    reader: MemberReader, rows: np.ndarray, chunks: np.ndarray, chunking: Chunking
) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms [B, N] int16, zero-padded, and their lengths [B] int64."""
    waveform = np.zeros((len(rows), chunking.chunk_samples), np.int16)
    lengths = np.empty(len(rows), np.int64)
    counts = reader.index.table.count
    for position, (row, chunk) in enumerate(zip(rows, chunks, strict=True)):
        start, stop = chunking.bounds(int(chunk), int(counts[row]))
        lengths[position] = stop - start
        waveform[position, : stop - start] = reader.samples(int(row), start, stop)
    return waveform, lengths


def to_device(waveform: np.ndarray, device: torch.device) -> Tensor:
    """Float waveforms [B, N] in [-1, 1) on ``device`` from int16 [B, N]."""
    pcm = torch.from_numpy(waveform)
    if device.type == "cuda":
        pcm = pcm.pin_memory().to(device, non_blocking=True)
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


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Audio, and labels if any, joined and cut into chunks."""

    audio: MemberReader
    labels: MemberReader | None
    chunking: Chunking
    alpha: float
    """Weight of the pseudo labels against the weak ones."""

    @staticmethod
    def open(
        audio_folders: list[str],
        label_folders: list[str] | None,
        *,
        chunk_seconds: float,
        alpha: float,
    ) -> TrainingData:
        """Open and join; raises ShardError or ValueError if they do not fit."""
        audio = open_indexes(audio_folders, kind="audio")
        chunking = Chunking.of(chunk_seconds, audio.properties["sample_rate"])
        labels = None
        if label_folders is not None:
            index = open_indexes(label_folders, kind="labels")
            check_join(audio, index)
            check_label_chunks(index, audio, chunking)
            labels = MemberReader(index)
        return TrainingData(MemberReader(audio), labels, chunking, alpha)

    def plan(self, global_batch_size: int, seed: int) -> Plan:
        """The order in which training visits the chunks."""
        index = self.audio.index
        return Plan(
            num_chunks=self.chunking.num_chunks(index.table.count),
            clips_per_shard=np.array([shard.num_clips for shard in index.shards]),
            global_batch_size=global_batch_size,
            seed=seed,
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the audio and the labels."""
        labels = self.labels.index.fingerprint if self.labels else "weak"
        return f"{self.audio.index.fingerprint}+{labels}+{self.alpha}"

    def batch(
        self, rows: np.ndarray, chunks: np.ndarray, device: torch.device
    ) -> Batch:
        """The chunks ``chunks`` [B] of clips ``rows`` [B] with their targets."""
        waveform, lengths = read_chunks(self.audio, rows, chunks, self.chunking)
        return Batch(
            waveform=to_device(waveform, device),
            num_samples=torch.from_numpy(lengths).to(device),
            targets=self._targets(rows, chunks).to(device),
        )

    def _targets(self, rows: np.ndarray, chunks: np.ndarray) -> Tensor:
        index = self.audio.index
        weak = torch.from_numpy(index.table.weak_targets(rows, len(index.classes)))
        if self.labels is None:
            return weak
        pseudo = np.stack(
            [
                self.labels.labels(int(row))[chunk]
                for row, chunk in zip(rows, chunks, strict=True)
            ]
        )
        check_probs(pseudo, where=self.labels.index.where)
        return mix_targets(torch.from_numpy(pseudo).float(), weak, self.alpha)
