"""What the launcher's environment says of this process, read without torch.

With psl/distributed/launch.py and runtime.py the only readers of a launcher's
environment (RANK, WORLD_SIZE, ACCELERATE_*).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def rank_and_world_size() -> tuple[int, int]:
    """As the launcher says, for jobs that share work but form no process group."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The rank of this process among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def pretend_node(num_processes: int) -> Iterator[None]:
    """Share this machine as a launcher of ``num_processes`` would have it shared."""
    name = "LOCAL_WORLD_SIZE"
    before = os.environ.get(name)
    os.environ[name] = str(num_processes)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
