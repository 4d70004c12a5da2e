"""This process in its job: rank, world size, device.

With psl/distributed/launch.py the only readers of a launcher's environment (RANK,
WORLD_SIZE, ACCELERATE_*).
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from psl.distributed import zero
from psl.distributed.environment import rank_and_world_size as rank_and_world_size

FLIGHT_RECORDS = "2000"
"""Collectives that nccl's flight recorder keeps, for psl/job/hang.py."""
_OLD_RECORDER = "TORCH_NCCL_TRACE_BUFFER_SIZE"
"""Name of TORCH_FR_BUFFER_SIZE before torch 2.9."""


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed holds the optimizer's state, a part of it on each rank."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def splits_weights(accelerator: Accelerator) -> bool:
    """Whether a rank holds only a part of the weights, between uses (ZeRO-3)."""
    if not is_deepspeed(accelerator):
        return False
    return zero.stage_of(accelerator.state.deepspeed_plugin.deepspeed_config) == 3


def default_threads() -> int:
    """Loader threads: the cores this process can count on, at most 8."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // num_local_processes()))


def num_local_processes() -> int:
    """Processes of the job on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def restart_count() -> int:
    """How often torchrun restarted the processes of this job (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def leave_hangs_to_us() -> None:
    """Keep nccl's own threads from ending this process; before its group is made.

    By default they abort it when a peer is gone, or seems to hang, maybe before
    psl/job/watchdog.py has said which rank is at fault and written status.json. What
    the user has set stays; torchrun, which sets error handling to 1 for everybody
    (torch 2.13), is no user.
    """
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    of_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get(name) == "1"
    if of_torchrun or name not in os.environ:
        os.environ[name] = "0"
    os.environ.setdefault("TORCH_NCCL_ENABLE_MONITORING", "0")
    if _OLD_RECORDER not in os.environ:  # still read, and with precedence
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", FLIGHT_RECORDS)


def rendezvous_store() -> Any:
    """A connection of its own to the store the ranks met at; None for one process."""
    if not dist.is_initialized():
        return None
    store: Any = dist.distributed_c10d._get_default_store()
    return store.clone()  # one that waits blocks all others of its connection


def local_device() -> torch.device:
    """The GPU of the local rank, or the CPU, for jobs without a process group."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % torch.cuda.device_count())


def move_model(
    model: nn.Module, device: torch.device, *, channels_last: bool = True
) -> nn.Module:
    """``model`` on ``device``, convolution weights channels-last.

    That is faster for a MobileNet on CPU and GPU, and changes nothing beyond rounding.
    DeepSpeed, which views weights as bytes, cannot have it.
    """
    for parameter in model.parameters():
        if channels_last and parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return model.to(device)
