"""The few collective operations that ranks use to talk to each other."""

from __future__ import annotations

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from shards.system.exits import JobError
from shards.system.files import sha256_of


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
