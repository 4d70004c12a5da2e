"""Reads a dataset at a URL through a cache, as one of several processes on it.

python -m tests.remote_reader URL CACHE LIMIT_BYTES: prints key, chunk and hash of every
chunk of an epoch, one a line.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from shards.dataset.cache import ShardCache
from shards.dataset.reader import MemberReader
from shards.format.index import Index, open_index
from shards.order.plan import Plan
from shards.remote.places import RetryPolicy
from shards.remote.transport import Stall

CHUNK = 16000
QUICK = RetryPolicy(
    attempts=16,
    progress_bytes=1,
    first_delay_seconds=0.02,
    longest_delay_seconds=0.5,
    stall=Stall(seconds=5.0),
)
"""Gives up within seconds, for tests."""


def plan_of(index: Index, *, window_shards: int = 2) -> Plan:
    """An order for clips of two chunks."""
    return Plan(
        num_chunks=np.full(len(index), 2),
        clips_per_shard=np.array([shard.num_clips for shard in index.shards]),
        global_batch_size=2,
        seed=0,
        window_shards=window_shards,
    )


def read_epoch(
    index: Index, cache: ShardCache | None, epoch: int = 0
) -> Iterator[tuple[str, int, bytes]]:
    """Key, chunk and samples of every chunk, in the order of the plan, by threads."""
    reader = MemberReader(index, cache)

    def read(place: tuple[int, int]) -> tuple[str, int, bytes]:
        row, chunk = place
        pcm = reader.samples(row, chunk * CHUNK, (chunk + 1) * CHUNK)
        return index.key(row), chunk, pcm.tobytes()

    places = [
        (int(row), int(chunk))
        for rows, chunks in plan_of(index).steps(epoch)
        for row, chunk in zip(rows, chunks, strict=True)
    ]
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(read, places)


if __name__ == "__main__":
    url, folder, limit = sys.argv[1:]
    cache = ShardCache(folder, int(limit), retry=QUICK)
    for key, chunk, pcm in read_epoch(
        open_index(url, kind="audio", retry=QUICK), cache
    ):
        print(key, chunk, hashlib.sha256(pcm).hexdigest(), flush=True)
