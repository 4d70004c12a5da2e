"""Checks that reject a configuration before step 1.

Owns the checks of options against each other, and against the job they run in.
"""

from __future__ import annotations

from accelerate import Accelerator

from psl.distributed import runtime
from psl.training.config import TrainConfig
from psl.training.resume import CHANGEABLE, ON_RESUME
from psl.training.trackers import check_installed
from shards.order.plan import Plan


def check_possible(config: TrainConfig, plan: Plan, accelerator: Accelerator) -> None:
    """ValueError unless the parts of ``config`` fit each other and the processes."""
    world_size, steps = accelerator.num_processes, config.accumulation_steps
    _check_batch_seconds(config, world_size)
    check_installed(config.tracker)
    plan.local_slice(accelerator.process_index, world_size)
    share = config.chunks_per_step // world_size
    if share % steps:
        raise ValueError(
            f"accumulation_steps {steps} does not divide the {share} chunks that each "
            f"of {world_size} processes has of global_batch_size "
            f"{config.chunks_per_step}"
        )
    total = config.epochs * plan.num_steps
    if config.profile is not None and config.profile[1] > total:
        raise ValueError(
            f"profile = {config.profile}: the run has {total} steps; name steps up to "
            "that one"
        )
    for name in config.accept_changes:
        if name.partition(".")[0] not in ON_RESUME:
            keys = ", ".join(key for key in ON_RESUME if ON_RESUME[key] in CHANGEABLE)
            raise ValueError(
                f"accept_changes: unknown key {name!r}, expected one of {keys}, or a "
                "key below one of them, such as optim.learning_rate"
            )
    if config.average_best and config.average_best > config.keep_best:
        raise ValueError(
            f"average_best {config.average_best} of keep_best {config.keep_best} "
            "checkpoints: raise keep_best"
        )
    _check_buckets(config, accelerator)
    _check_cuda_graph(config, accelerator)
    if config.sync_batch_norm and accelerator.device.type != "cuda":
        raise ValueError(
            "sync_batch_norm: torch synchronises BatchNorm on GPUs only, and this is "
            f"{accelerator.device.type}; set sync_batch_norm=false"
        )
    if config.nonfinite == "skip" and runtime.is_deepspeed(accelerator):
        raise ValueError("nonfinite: DeepSpeed cannot skip an update here; use stop")
    if config.optim.ema_decay and runtime.splits_weights(accelerator):
        raise ValueError(
            "optim.ema_decay: the average needs the whole weights in every step, which "
            "no rank has under zero3; use strategy zero2, zero1 or ddp"
        )


def _check_cuda_graph(config: TrainConfig, accelerator: Accelerator) -> None:
    """ValueError if the step cannot be recorded."""
    if not config.cuda_graph:
        return
    if accelerator.device.type != "cuda":
        raise ValueError(
            "cuda_graph: steps are recorded on GPUs only, and this is "
            f"{accelerator.device.type}; set cuda_graph=false"
        )
    if runtime.is_deepspeed(accelerator):
        raise ValueError(
            "cuda_graph: DeepSpeed makes its own steps; use strategy=ddp, or set "
            "cuda_graph=false"
        )
    if config.sync_batch_norm:
        raise ValueError(
            "cuda_graph: with sync_batch_norm the ranks talk inside the step, which is "
            "not recorded; set one of the two to false"
        )


def _check_buckets(config: TrainConfig, accelerator: Accelerator) -> None:
    """ValueError if something else shares the gradients, or steps are recorded."""
    if config.bucket_mb is None:
        return
    if runtime.is_deepspeed(accelerator):
        raise ValueError(
            "bucket_mb: DeepSpeed shares the gradients in its own way; use "
            "strategy=ddp, or set bucket_mb=null"
        )
    if config.cuda_graph:
        raise ValueError(
            "bucket_mb: with cuda_graph the backward pass is recorded, and buckets "
            "leave inside of it; set bucket_mb=null or cuda_graph=false"
        )


def _check_batch_seconds(config: TrainConfig, world_size: int) -> None:
    """ValueError unless the processes can share the chunks of ``batch_seconds``."""
    seconds, chunks = config.data.chunk_seconds, config.chunks_per_step
    if config.batch_seconds is not None and chunks % world_size:
        raise ValueError(
            f"batch_seconds = {config.batch_seconds:g} is {chunks} chunks of "
            f"{seconds:g} s, which {world_size} processes cannot share; make it a "
            f"multiple of {world_size * seconds:g}"
        )
