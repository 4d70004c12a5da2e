"""What the launcher's environment says of this process, read without torch.

With psl/distributed/launch.py and runtime.py the only readers of a launcher's
environment (RANK, WORLD_SIZE, ACCELERATE_*).
"""

from __future__ import annotations

import os


def rank_and_world_size() -> tuple[int, int]:
    """As the launcher says, for jobs that share work but form no process group."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The rank of this process among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def pretend_node(num_processes: int) -> None:
    """Share this machine as a launcher of ``num_processes`` would have it shared."""
    os.environ["LOCAL_WORLD_SIZE"] = str(num_processes)
