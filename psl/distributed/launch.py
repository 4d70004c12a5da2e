"""Joining and leaving a distributed job: one process, torchrun or accelerate launch.

Owns accelerate's start-up rules and what a launcher and a config must agree on.
DeepSpeed's own are in psl/distributed/zero.py.
"""

from __future__ import annotations

import gc
import os
import warnings
from datetime import timedelta

import accelerate
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    KwargsHandler,
    is_deepspeed_available,
)

from psl.distributed import zero
from psl.distributed.collectives import wait_for_all
from psl.distributed.config import Precision, Strategy
from psl.distributed.runtime import (
    is_deepspeed,
    keep_freed_memory,
    leave_hangs_to_us,
    rank_and_world_size,
)
from shards.system.exits import JobError
from shards.system.extras import pip_install

ZERO_STRATEGIES: tuple[Strategy, ...] = ("zero1", "zero2", "zero3")
GROUP_SECONDS = 120.0
"""Added to the timeout of the process group, so that slow starts do not fail."""


def agreed_precision(precision: Precision | None) -> Precision:
    """What the config says, else accelerate launch, else no.

    Raises ValueError if both say something and differ. accelerate launch says no also
    where nobody asked for it, so that counts as nothing.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", "bf16"):
        raise ValueError(
            f"accelerate launch says mixed_precision {asked}, expected no or bf16"
        )
    if asked == "bf16" and precision == "no":
        raise ValueError(
            f"accelerate launch says mixed_precision {asked}, the config precision "
            f"{precision}; make them agree"
        )
    return precision or ("bf16" if asked == "bf16" else "no")


def agreed_strategy(strategy: Strategy | None) -> Strategy:
    """What the config says, else accelerate launch, else ddp.

    Raises ValueError if both say something and differ, or the launcher asks for
    something unsupported.
    """
    for other in ("FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{other}", "false").lower() == "true":
            raise ValueError(
                f"accelerate launch asks for {other}; use its distributed_type "
                "MULTI_GPU, or DEEPSPEED (see launch/accelerate)"
            )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") != "true":
        return strategy or "ddp"
    stage = zero.stage_of(DeepSpeedPlugin().deepspeed_config)
    asked: Strategy = ZERO_STRATEGIES[stage - 1]
    if strategy not in (None, asked):
        raise ValueError(
            f"accelerate launch says DeepSpeed with ZeRO stage {stage}, the config "
            f"strategy {strategy}; make them agree"
        )
    return asked


def join_job(
    *,
    precision: Precision | None = None,
    strategy: Strategy | None = None,
    global_batch_size: int | None = None,
    clip_grad_norm: float | None = None,
    accumulation_steps: int = 1,
    timeout_seconds: float = 600.0,
) -> Accelerator:
    """Join the job this process was launched for: alone, torchrun, accelerate launch.

    Collective. Computes on the GPU of the local rank over nccl, or on the CPU over
    gloo, and there keeps freed memory. DeepSpeed reads its own configuration only: that
    of ``accelerate launch``, or one made here, completed with the values given here.
    ``timeout_seconds`` is that of psl/job/watchdog.py, which names whom a rank waits
    for; the process group's own timeout, which cannot, is longer.

    Raises ValueError if the launcher asks for something unsupported or contradicts the
    config, and JobError if its world is not the one accelerate sees.
    """
    precision, strategy = agreed_precision(precision), agreed_strategy(strategy)
    _check_launcher(accumulation_steps)
    cuda = torch.cuda.is_available()
    _check_device(cuda)
    if not cuda:
        keep_freed_memory()
        # DeepSpeed, where installed, would warn that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed 0.19 calls them at every step of ZeRO-3
    warnings.filterwarnings("ignore", message="`torch.distributed.*` is deprecated")
    handlers: list[KwargsHandler] = []
    if "LOCAL_RANK" in os.environ:  # alone, naming a backend makes accelerate fail
        backend = "nccl" if cuda else "gloo"
        if cuda:
            leave_hangs_to_us()
        timeout = timedelta(seconds=2 * timeout_seconds + GROUP_SECONDS)
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=timeout))
    plugin = _deepspeed_plugin(strategy) if strategy != "ddp" else None
    if plugin is not None:
        zero.leave_out_extension()
    if plugin is not None and global_batch_size is not None:
        world_size = rank_and_world_size()[1]
        zero.complete(
            plugin.deepspeed_config,
            micro_batch_size=global_batch_size // (world_size * accumulation_steps),
            num_processes=world_size,
            accumulation_steps=accumulation_steps,
            clip_grad_norm=clip_grad_norm,
            bf16=precision == "bf16",
        )
    # cpu=True would make accelerate drop DeepSpeed silently
    accelerator = Accelerator(
        cpu=not cuda and plugin is None,
        mixed_precision="no",  # psl.training.step has an autocast of its own
        # given as steps, the launcher's default of 1 would override it
        gradient_accumulation_plugin=GradientAccumulationPlugin(accumulation_steps),
        deepspeed_plugin=plugin,
        kwargs_handlers=handlers,
    )
    _check_world(accelerator, plugin is not None)
    if plugin is not None:
        # by this, transformers under ZeRO-3 would split a teacher's weights, too
        plugin.dschf = None
    return accelerator


def check_installed(strategy: Strategy) -> None:
    """ValueError if ``strategy`` needs a package that is missing."""
    if strategy != "ddp" and not is_deepspeed_available():
        raise ValueError(  # running again does not help
            f"strategy {strategy} needs DeepSpeed; install the extra: "
            f"{pip_install('deepspeed')}, or set strategy=ddp"
        )


def _deepspeed_plugin(strategy: Strategy) -> DeepSpeedPlugin:
    """What accelerate launch says of DeepSpeed, or ``strategy`` with all defaults."""
    check_installed(strategy)
    if "LOCAL_RANK" not in os.environ:
        raise ValueError(
            f"strategy {strategy} needs a launcher, for one process too: "
            "torchrun --nproc-per-node 1 -m psl.train ..."
        )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        return DeepSpeedPlugin()
    stage = ZERO_STRATEGIES.index(strategy) + 1
    return DeepSpeedPlugin(zero_stage=stage, zero3_init_flag=False)


def _check_launcher(accumulation_steps: int) -> None:
    """ValueError if accelerate launch and the config contradict each other."""
    asked = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if asked not in ("1", "auto", str(accumulation_steps)):
        raise ValueError(
            f"accelerate launch says gradient_accumulation_steps {asked}, the config "
            f"accumulation_steps {accumulation_steps}; make them agree"
        )
    dynamo = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if dynamo.lower() != "no":
        raise ValueError(
            f"accelerate launch says dynamo_backend {dynamo}; leave it at no and set "
            "compile=true in the config"
        )


def _check_device(cuda: bool) -> None:
    """ValueError if this process has no GPU of its own on a machine that has some."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local_rank >= (found := torch.cuda.device_count()):
        raise ValueError(
            f"local rank {local_rank} needs GPU {local_rank}, but this machine shows "
            f"{found}; start {found} processes on it (--nproc-per-node {found}), or "
            "look at CUDA_VISIBLE_DEVICES"
        )


def _check_world(accelerator: Accelerator, deepspeed: bool) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise JobError(
            f"{launched} processes were launched, but accelerate joined "
            f"{accelerator.num_processes}; on CPU use torchrun, or an accelerate "
            "config with distributed_type MULTI_GPU and use_cpu true (see launch/)"
        )
    if deepspeed != is_deepspeed(accelerator):
        raise JobError(
            "DeepSpeed was asked for, but accelerate did not start it; this is "
            f"accelerate {accelerate.__version__}, and 1.15 is known to start it"
        )


def leave_job(accelerator: Accelerator) -> None:
    """End the process group cleanly. Collective.

    The caller first drops every reference to a prepared model.
    A gloo job that skips any of these steps aborts at exit about every other time.
    """
    accelerator.free_memory()
    gc.collect()
    wait_for_all()
    if dist.is_initialized():
        dist.destroy_process_group()
