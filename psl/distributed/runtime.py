"""This process in its job: rank, world size, device.

With psl/distributed/launch.py the only readers of a launcher's environment (RANK,
WORLD_SIZE, ACCELERATE_*).
"""

from __future__ import annotations

import ctypes
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


MAX_THREADS = 16
"""Loader threads that are started without being asked for. Decoding a chunk of FLAC
holds the interpreter's lock for 6 to 16 % of its time (docs/data_speed.md), so about so
many threads at once are all that it lets run; more do no harm."""


def default_threads() -> int:
    """Loader threads: the cores this process can count on, at most MAX_THREADS."""
    cores = len(os.sched_getaffinity(0)) // num_local_processes()
    return max(1, min(MAX_THREADS, cores))


def num_local_processes() -> int:
    """Processes of the job on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def restart_count() -> int:
    """How often torchrun restarted the processes of this job (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's mallopt."""


def keep_freed_memory() -> bool:
    """Have malloc keep what PyTorch frees, for the next step; whether it does.

    A step frees and takes the same hundreds of MB again. glibc gives large blocks back
    to the system each time, which then zeroes every page again: a quarter of the CPU
    time of psl.train on one core (16.3 s, and 12.3 s so, for 12 steps of 32 chunks of
    2 s with start and end; 2026-11-29). Left alone where the user tunes malloc
    (MALLOC_..., GLIBC_TUNABLES), and where it is not glibc's.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


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
