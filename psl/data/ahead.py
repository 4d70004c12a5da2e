"""Shards made ready before training reads them: fetched, read ahead, decoded.

Owns which shards each of these turns to, and when, and whether the cache can hold what
is read at a time. How they are done is shards/dataset's.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np

from psl.data.config import LoaderConfig
from psl.data.loader import cache_share, open_cache, readahead_bytes
from psl.data.transcode import copying
from psl.distributed.runtime import num_local_processes
from shards.dataset.prefetch import Prefetcher
from shards.dataset.readahead import Readahead
from shards.dataset.reader import MemberReader
from shards.order.plan import Plan

Find = Callable[[int, int], np.ndarray]
"""Epoch and step -> the shards of that window."""


def check_fits_cache(
    readers: Sequence[MemberReader], loader: LoaderConfig, shards: np.ndarray
) -> None:
    """ValueError unless ``shards``, read in turns, fit in the cache together.

    Otherwise almost every read would fetch a shard again.
    """
    prefetcher = Prefetcher(readers, cache_share(loader))
    needed = sum(prefetcher.num_bytes(int(shard)) for shard in shards)
    if needed > prefetcher.max_bytes:
        enough = 1.01 * needed * num_local_processes()
        raise ValueError(
            f"{open_cache(loader).folder}: {len(shards)} shards of "
            f"{needed / 1e9:.3g} GB are read at the same time, but each process on "
            f"this machine has {prefetcher.max_bytes / 1e9:.3g} GB of cache; set "
            f"loader.cache_gb={enough / 1e9:.3g} or more, or pack smaller shards"
        )


class Ahead:
    """Threads ahead of one rank's steps. A context manager; they end with it.

    ``readers`` are audio, and labels if any.
    """

    def __init__(
        self,
        readers: Sequence[MemberReader],
        loader: LoaderConfig,
        plan: Plan,
        *,
        rank: int,
        world_size: int,
    ) -> None:
        self._audio, self._loader, self._plan = readers[0], loader, plan
        self._needed, self._nearby = (
            functools.partial(find, rank=rank, world_size=world_size)
            for find in (plan.shards_needed, plan.shards_of_window)
        )
        self._any_remote = any(reader.any_remote for reader in readers)
        self._prefetcher = Prefetcher(readers, cache_share(loader))
        self._readahead = Readahead(readers, readahead_bytes(loader))
        self._threads = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for threads in (self._prefetcher, self._readahead):
            self._threads.enter_context(threads)
        self._copier = self._threads.enter_context(copying(self._audio, self._loader))
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.close()

    def begin(self, epoch: int, step: int) -> None:
        """The first step of an epoch or of what is left of one."""
        self.turn_to(epoch, step)
        if not self._any_remote:
            shards = range(len(self._audio.index.shards))
            later = _later_windows(self._plan, self._nearby, epoch, step)
            self._copier.want(itertools.chain(later, shards))

    def turn_to(self, epoch: int, step: int) -> None:
        """A step with which a window begins."""
        self._prefetcher.want(_two_windows(self._plan, self._needed, epoch, step))
        self._readahead.want(_two_windows(self._plan, self._nearby, epoch, step))
        if self._any_remote:  # not ahead of what is fetched
            self._copier.want(_two_windows(self._plan, self._needed, epoch, step))


def _two_windows(plan: Plan, find: Find, epoch: int, step: int) -> Iterator[int]:
    """Shards in the order of need, from ``step`` to the end of the next window."""
    yield from find(epoch, step).tolist()
    following = step - step % plan.window_steps + plan.window_steps
    if following < plan.num_steps:
        yield from find(epoch, following).tolist()
    else:
        yield from find(epoch + 1, 0).tolist()


def _later_windows(plan: Plan, find: Find, epoch: int, step: int) -> Iterator[int]:
    """Shards of the rest of an epoch, from the window after the next.

    Clips decoded before they are read need not be decoded again.
    """
    begin = step - step % plan.window_steps + 2 * plan.window_steps
    for following in range(begin, plan.num_steps, plan.window_steps):
        yield from find(epoch, following).tolist()
