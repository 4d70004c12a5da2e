"""The processes of a job: who am I, where do I compute, when do we part.

The only module that reads the environment of a launcher (RANK, WORLD_SIZE,
ACCELERATE_*), and the only one that knows accelerate's start-up rules; those of
DeepSpeed are in psl/zero.py. Ranks talk through the few functions here.
"""

from __future__ import annotations

import gc
import os
import warnings
from datetime import timedelta
from typing import Any, Literal

import accelerate
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    KwargsHandler,
    is_deepspeed_available,
)
from torch import Tensor, nn

from psl import zero
from shards.cli import JobError
from shards.schema import sha256_of

Precision = Literal["no", "bf16"]
Strategy = Literal["ddp", "zero1", "zero2", "zero3"]
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

    Raises ValueError if both say something and differ, or the launcher asks for what
    there is not.
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


def start(
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
    gloo. DeepSpeed reads its own configuration only: that of ``accelerate launch``, or
    one made here, where what ours says is written in. ``timeout_seconds`` is that of
    psl/watchdog.py, which names whom a rank waits for; the process group's own, which
    cannot, is longer.

    Raises ValueError if the launcher asks for what is not supported or contradicts the
    config, and JobError if its world is not the one accelerate sees.
    """
    precision, strategy = agreed_precision(precision), agreed_strategy(strategy)
    _check_launcher(accumulation_steps)
    cuda = torch.cuda.is_available()
    _check_device(cuda)
    if not cuda:  # DeepSpeed, where installed, would warn that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # accelerate 1.15 passes the name that torch 2.13 deprecates
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    # DeepSpeed 0.19 calls them at every step of ZeRO-3
    warnings.filterwarnings("ignore", message="`torch.distributed.*` is deprecated")
    handlers: list[KwargsHandler] = [
        DistributedDataParallelKwargs(broadcast_buffers=False)
    ]
    if "LOCAL_RANK" in os.environ:  # alone, naming a backend makes accelerate fail
        backend = "nccl" if cuda else "gloo"
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
    # cpu=True would make accelerate drop DeepSpeed without a word
    accelerator = Accelerator(
        cpu=not cuda and plugin is None,
        mixed_precision="no",  # psl.step has an autocast of its own
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


def _deepspeed_plugin(strategy: Strategy) -> DeepSpeedPlugin:
    """What accelerate launch says of DeepSpeed, or ``strategy`` with all defaults."""
    if not is_deepspeed_available():
        raise ValueError(  # not mended by running again
            f"strategy {strategy} needs DeepSpeed; install the extra: "
            "pip install -e '.[deepspeed]', or set strategy=ddp"
        )
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
    """ValueError if accelerate launch asks for what the config contradicts."""
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


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed holds the optimizer's state, a part of it on each rank."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def splits_weights(accelerator: Accelerator) -> bool:
    """Whether a rank holds only a part of the weights, between uses (ZeRO-3)."""
    if not is_deepspeed(accelerator):
        return False
    return zero.stage_of(accelerator.state.deepspeed_plugin.deepspeed_config) == 3


def finish(accelerator: Accelerator) -> None:
    """Part cleanly. Collective; drop every reference to a prepared model first.

    A gloo job that skips any of these steps aborts at exit about every other time.
    """
    accelerator.free_memory()
    gc.collect()
    wait_for_all()
    if dist.is_initialized():
        dist.destroy_process_group()


def default_threads() -> int:
    """Loader threads: the cores this process can count on, at most 8."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // num_local_processes()))


def num_local_processes() -> int:
    """Processes of the job on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank_and_world_size() -> tuple[int, int]:
    """As the launcher says, for jobs that share work but form no process group."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def restart_count() -> int:
    """How often torchrun started the processes of this job anew (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


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


def place(
    model: nn.Module, device: torch.device, *, channels_last: bool = True
) -> nn.Module:
    """Move ``model`` to ``device``, convolution weights channels-last.

    That is faster for a MobileNet on CPU and GPU, and changes nothing beyond rounding.
    DeepSpeed, which views weights as bytes, cannot have it.
    """
    for parameter in model.parameters():
        if channels_last and parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return model.to(device)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all ranks, in place. Collective."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def largest_over_ranks(number: int) -> int:
    """The largest of the ranks' whole numbers. Collective."""
    if not dist.is_initialized():
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def wait_for_all() -> None:
    """Return when all ranks are here. Collective."""
    if dist.is_initialized():
        dist.barrier()


def check_agreement(accelerator: Accelerator, what: str) -> None:
    """JobError on all ranks unless all give the same ``what``. Collective.

    Ranks that read different files would otherwise part ways, and hang, later.
    """
    digest = int(sha256_of(what.encode())[:15], 16)
    mine = torch.tensor([digest], device=accelerator.device)
    everybody = accelerator.gather(mine).tolist()
    if len(set(everybody)) > 1:
        odd = [rank for rank, value in enumerate(everybody) if value != everybody[0]]
        raise JobError(
            f"ranks {odd} see other data or checkpoints than rank 0; give all nodes "
            f"the same files (this is rank {accelerator.process_index}: {what})"
        )


def average_norm_statistics(model: nn.Module) -> None:
    """Give all ranks the mean of their BatchNorm statistics. Collective.

    Every rank's statistics follow its own share of the batches; this must precede any
    use of them, in evaluation or in a checkpoint.
    """
    names = ("running_mean", "running_var")
    buffers = [b for n, b in model.named_buffers() if n.split(".")[-1] in names]
    if not dist.is_initialized() or not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([b.numel() for b in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))
