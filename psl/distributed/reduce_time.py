"""How long this rank spends in all-reduces, the wait for slower ranks included.

Owns the clock only. On a GPU it reads events that have happened already, and never
waits for one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator

import torch


class ReduceTime:
    """Seconds so far."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextlib.contextmanager
    def measured(self, device: torch.device) -> Iterator[None]:
        """Add the time of what is inside; on a GPU, of what it queues there."""
        if device.type != "cuda":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
        elif torch.cuda.is_current_stream_capturing():  # a graph has no clock
            yield
        else:
            self._drain()
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            yield
            after.record()
            self._under_way.append((before, after))

    @property
    def seconds(self) -> float:
        """Of all that is over."""
        self._drain()
        return self._seconds

    def _drain(self) -> None:
        while self._under_way and self._under_way[0][1].query():
            before, after = self._under_way.popleft()
            self._seconds += before.elapsed_time(after) / 1000


reduce_time = ReduceTime()
"""Of this process."""
