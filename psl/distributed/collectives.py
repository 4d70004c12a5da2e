"""The few collective operations that ranks use to talk to each other.

Owns also the one way in which ranks learn what is on a disk that one of them writes:
rank 0 reads, and tells the others. A barrier would not do, since a network file system
may show other machines an old folder for a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from psl.distributed.reduce_time import reduce_time
from shards.errors import ShardError
from shards.system.exits import JobError
from shards.system.files import sha256_of

Value = TypeVar("Value")

_TOLD_ERRORS = (OSError, ValueError, ShardError, JobError)
"""What rank 0 may find wrong with files; all ranks then fail alike."""


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all ranks, in place. Collective."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_on_main(tensor: Tensor) -> list[Tensor]:
    """Every rank's ``tensor``, all of one shape, on rank 0; none elsewhere. Collective.

    Which of them is whose, their order says.
    """
    if not dist.is_initialized():
        return [tensor]
    is_main = dist.get_rank() == 0
    size = dist.get_world_size()
    parts = [torch.empty_like(tensor) for _ in range(size)] if is_main else []
    dist.gather(tensor, parts if is_main else None)
    return parts


def mean_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace float32 ``tensors`` by their means over the ranks. Collective.

    In one flat all-reduce, whose order of sums depends only on the sizes and on the
    number of ranks: the same tensors give the same bits in every step of every start.
    """
    if is_alone() or not tensors:
        return
    flat = pack(tensors)
    flat_sum_over_ranks(flat)
    unpack_mean(flat, tensors)


def is_alone() -> bool:
    """Whether this is the only rank."""
    return not dist.is_initialized() or dist.get_world_size() == 1


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """[n] all values of ``tensors``, in order."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def flat_sum_over_ranks(flat: Tensor) -> None:
    """Add up ``flat`` [n] over the ranks, in place, and time it. Collective."""
    with reduce_time.measured(flat.device):
        dist.all_reduce(flat)


def begin_sum_over_ranks(flat: Tensor) -> dist.Work:
    """Begin to add up ``flat`` [n] over the ranks, in place; wait for what it gives.

    Collective. ``flat`` must stay as it is until then.
    """
    work: dist.Work = dist.all_reduce(flat, async_op=True)
    return work


def unpack_mean(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Put the means, from ``flat`` [n] sums over the ranks, back into ``tensors``."""
    parts = flat.div_(dist.get_world_size()).split([t.numel() for t in tensors])
    views = [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
    torch._foreach_copy_(list(tensors), views)


def largest_over_ranks(number: int) -> int:
    """The largest of the ranks' whole numbers. Collective."""
    if not dist.is_initialized():
        return number
    tensor = torch.tensor(number, device=_device())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def from_main(make: Callable[[], Value]) -> Value:
    """What ``make()`` gives on rank 0, the only one to call it. Collective.

    For small values. If ``make`` raises what a user can cause, all ranks raise it.
    """
    if not dist.is_initialized():
        return make()
    told: list[tuple[Value | None, Exception | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            told = [(make(), None)]
        except _TOLD_ERRORS as error:
            told = [(None, error)]
    dist.broadcast_object_list(told, device=_device())
    value, problem = told[0]
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]


def tensors_from_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rank 0's ``tensors``, on the CPU of every rank. Collective."""
    if not dist.is_initialized():
        return dict(tensors)
    forms = from_main(lambda: [(n, t.shape, t.dtype) for n, t in tensors.items()])
    found: dict[str, Tensor] = {}
    for name, shape, dtype in forms:
        if dist.get_rank() == 0:
            tensor = tensors[name].detach().to(_device()).contiguous()
        else:
            tensor = torch.empty(shape, dtype=dtype, device=_device())
        dist.broadcast(tensor, src=0)
        found[name] = tensor.cpu()
    return found


def weights_from_main(model: nn.Module) -> None:
    """Give ``model`` the parameters and buffers that it has on rank 0. Collective."""
    if dist.is_initialized():
        model.load_state_dict(tensors_from_main(model.state_dict()))


def wait_for_all() -> None:
    """Return when all ranks are here. Collective."""
    if dist.is_initialized():
        dist.barrier()


def check_agreement(accelerator: Accelerator, facts: Mapping[str, str]) -> None:
    """JobError on all ranks unless all have the same ``facts``, by name. Collective.

    Ranks that were given different files would otherwise diverge, and hang, later.
    """
    digests = [int(sha256_of(text.encode())[:15], 16) for text in facts.values()]
    mine = torch.tensor([digests], device=accelerator.device)
    everybody = accelerator.gather(mine).tolist()
    odd = [rank for rank, row in enumerate(everybody) if row != everybody[0]]
    if odd:
        columns = zip(facts, *everybody, strict=True)
        names = [name for name, *values in columns if len(set(values)) > 1]
        ours = ", ".join(f"{name} = {facts[name]}" for name in names)
        raise JobError(
            f"ranks {odd} see other data or another configuration than rank 0; give "
            "all nodes the same files and arguments (rank "
            f"{accelerator.process_index} has {ours})"
        )


def _device() -> torch.device:
    """Where the process group moves tensors: the GPU of this rank, or the CPU."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
