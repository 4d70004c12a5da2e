"""loader.transcode: clips of compressed shards kept decoded while training.

Owns when there are copies, how much of the cache they may take, and the threads that
make them. What a copy is, is shards/dataset/copies.py's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from psl.data.config import LoaderConfig
from psl.distributed.runtime import default_threads
from shards.dataset.copies import PcmCopies
from shards.dataset.prefetch import ShardThreads
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking

_log = logging.getLogger(__name__)


def keep_decoded(
    reader: MemberReader, chunking: Chunking, loader: LoaderConfig
) -> None:
    """Let ``reader`` use copies, if ``loader`` says so and its clips are compressed.

    Copies may fill the cache; half of it where shards are fetched into it as well.
    """
    if loader.transcode is None or reader.index.properties["codec"] == "wav":
        return
    budget = reader.cache.limit_bytes // (2 if reader.any_remote else 1)
    copies = PcmCopies(reader.index, reader.cache, chunking, budget)
    left_out = len(reader.index.shards) - copies.num_wanted
    if left_out:
        _log.warning(
            "loader.transcode: %d of %d shards do not fit in the cache decoded and are "
            "decoded every time; all need %.3g GB (loader.cache_gb%s)",
            left_out,
            len(reader.index.shards),
            copies.num_bytes.sum() / 1e9,
            ", of which copies get half" if reader.any_remote else "",
        )
    reader.copies = copies


@contextlib.contextmanager
def copying(reader: MemberReader, loader: LoaderConfig) -> Iterator[ShardThreads]:
    """Threads that make copies of the shards they are told to want.

    Half as many as those that make batches, which decode what has no copy yet. At the
    end of the block they complete the copy that they are at: an epoch may take less.
    """
    copies = reader.copies

    def make(shard: int, _: threading.Event) -> bool:
        reader.make_copy(shard)
        return True

    threads = (loader.threads or default_threads()) + 1
    with ShardThreads(make, 0 if copies is None else threads // 2) as copier:
        yield copier
    if copies is not None and copies.num_failed:
        _log.warning(
            "loader.transcode: %d shards have no copy, %d were made by this process",
            copies.num_failed,
            copies.num_made,
        )
