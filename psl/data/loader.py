"""Chunks of clips -> batches on the device.

Owns the threads that fetch ahead. Threads, not processes: a batch needs no copy
between them, and the codec and NumPy release the interpreter lock. Which chunks, with
which targets, is psl/data/examples.py's.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

import numpy as np

from psl.data.batch import Batch
from psl.data.batch_memory import BatchMemory
from psl.data.config import LoaderConfig
from psl.distributed.runtime import default_threads, num_local_processes
from shards.dataset.cache import ShardCache
from shards.dataset.readahead import available_bytes
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking

Item = TypeVar("Item")
Result = TypeVar("Result")


@functools.cache
def open_cache(config: LoaderConfig) -> ShardCache:
    """The cache of this process for remote shards."""
    return ShardCache(config.cache, round(config.cache_gb * 1e9))


def cache_share(config: LoaderConfig) -> int:
    """This process's share of the cache, bytes: all on this machine get as much."""
    return open_cache(config).limit_bytes // num_local_processes()


def readahead_bytes(config: LoaderConfig) -> int:
    """Bytes of local shards that this process may ask for ahead."""
    if config.readahead_gb is not None:
        return round(config.readahead_gb * 1e9)
    return available_bytes() // 4 // num_local_processes()


def read_chunks(
    reader: MemberReader,
    rows: np.ndarray,
    chunks: np.ndarray,
    chunking: Chunking,
    memory: BatchMemory,
) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms [B, N] int16, zero-padded, and their lengths [B] int64."""
    bounds = chunking.bounds(chunks, reader.index.table.count[rows])
    return read_windows(reader, rows, bounds, chunking.chunk_samples, memory)


def read_windows(
    reader: MemberReader,
    rows: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    num_samples: int,
    memory: BatchMemory,
) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms [B, num_samples] int16, zero-padded, and their lengths [B] int64.

    ``bounds`` are the first and past-the-last sample [B] of each in its clip.
    """
    starts, stops = bounds
    pieces, lengths = reader.pcm_bytes(rows, starts, stops), stops - starts
    waveform = memory.take((len(rows), num_samples))
    if (lengths == num_samples).all():  # one call for all: faster than one for each
        np.concatenate(pieces, out=waveform.view(np.uint8).reshape(-1))
        return waveform, lengths
    for line, piece, length in zip(waveform, pieces, lengths.tolist(), strict=True):
        line[:length] = piece.view(np.int16)
        line[length:] = 0
    return waveform, lengths


def fetch_ahead(
    make: Callable[[Item], Result], items: Iterable[Item], config: LoaderConfig
) -> Iterator[Result]:
    """``map(make, items)``, in order, with the next results made by threads.

    An exception in ``make`` is raised here, when its result is due.
    """
    pending: deque[Future[Result]] = deque()
    threads = config.threads or default_threads()
    ahead = max(config.prefetch, threads)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > ahead:
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
