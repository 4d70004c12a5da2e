"""A process group that is not there: this process is one of two that are alike.

It notes what happens in which order, and adds up only when it is waited for, as late as
a slow network might.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch.distributed as dist
from torch import Tensor

from psl.distributed import collectives


@dataclass
class _Work:
    group: FakeGroup
    flat: Tensor

    def wait(self) -> None:
        """The sum over two ranks that have the same."""
        self.flat.mul_(2)
        self.group.events.append(f"waited for {self.flat.numel()}")


class FakeGroup:
    """``events`` has all-reduces that leave, waits, and what a test appends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Takes the place of torch's default group until the test is over."""
        self.events: list[str] = []
        monkeypatch.setattr(collectives, "is_alone", lambda: False)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(dist, "all_reduce", self._all_reduce)

    def _all_reduce(self, flat: Tensor, *, async_op: bool = False) -> _Work | None:
        self.events.append(f"{flat.numel()} leave")
        work = _Work(self, flat)
        if async_op:
            return work
        work.wait()
        return None
