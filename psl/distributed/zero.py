"""DeepSpeed ZeRO: configuration, and gather and scatter of sharded state.

Weights and Adam's moments are gathered parameter by parameter. So checkpoints have one
form whatever the strategy, any strategy and number of processes resumes from them, and
no file of DeepSpeed's, which only unpickling opens, is written or read. Imports
DeepSpeed when called, as it is an extra.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps for each weight, besides the number of steps."""


def stage_of(settings: dict[str, Any]) -> int:
    """The ZeRO stage in a DeepSpeed configuration.

    Raises ValueError if it has none of 1, 2 and 3, or moves parts off the device.
    """
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage")
    if stage not in (1, 2, 3):
        raise ValueError(
            f"the DeepSpeed configuration says zero_optimization.stage {stage}, "
            "expected 1, 2 or 3; for 0, leave DeepSpeed out and use strategy=ddp"
        )
    for key in ("offload_optimizer", "offload_param"):
        device = (zero.get(key) or {}).get("device", "none")
        if device not in ("none", None):
            raise ValueError(
                f"the DeepSpeed configuration says {key}.device {device}; offloading "
                "is not supported, set it to none"
            )
    return stage


def complete(
    settings: dict[str, Any],
    *,
    micro_batch_size: int,
    num_processes: int,
    accumulation_steps: int,
    clip_grad_norm: float | None,
    bf16: bool,
) -> None:
    """Write into ``settings``, a DeepSpeed configuration, what ours says.

    Weights, gradients and moments stay float32: with ``bf16`` the forward pass alone
    computes in it, as it does without DeepSpeed. Raises ValueError where ``settings``
    says something else.
    """
    for kind in ("bf16", "fp16", "torch_autocast", "amp"):
        if (settings.get(kind) or {}).get("enabled") is True:
            raise ValueError(
                f"the DeepSpeed configuration enables {kind}, expected no precision "
                "there; leave that out and set precision=bf16"
            )
    ours = {
        "train_batch_size": micro_batch_size * num_processes * accumulation_steps,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        # absent, DeepSpeed 0.19 clips at 1.0
        "gradient_clipping": clip_grad_norm or 0.0,
    }
    for key, value in ours.items():
        found = settings.get(key, "auto")
        unset = found == "auto" or (key == "gradient_accumulation_steps" and found == 1)
        if not unset and found != value:
            raise ValueError(
                f"the DeepSpeed configuration says {key} {found}, ours {value}; set it "
                "to auto there"
            )
        settings[key] = value
    if bf16:
        # naming no modules keeps what the ranks exchange in float32
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        }


def leave_out_extension() -> None:
    """Keep DeepSpeed from compiling its all-reduce over shared memory.

    Its first start on a CPU would wait a minute or more for a compiler, and fail where
    there is none, for what only its inference engine calls. Before DeepSpeed starts.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def gather_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a prepared model with whole float32 weights. Collective."""
    from deepspeed.utils import safe_get_full_fp32_param

    parameters = dict(model.named_parameters())
    return {
        name: (
            safe_get_full_fp32_param(parameters[name]).view(_shape(parameters[name]))
            if name in parameters
            else tensor
        )
        for name, tensor in model.state_dict().items()
    }


def gather_optimizer(
    model: nn.Module, optimizer: optim.Optimizer, *, keep: bool
) -> dict[str, Tensor]:
    """Tensors by ``<parameter number>.<name>``, as plain Adam has them. Collective.

    On the CPU; none on ranks that do not ``keep`` them. Takes the memory of one whole
    parameter on the device.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    zero, adam = _layers(optimizer)
    steps = [state["step"] for state in adam.state.values() if "step" in state]
    if steps and not _splits_weights(zero):
        # DeepSpeed 0.19 does so after its first group's update, when others have none
        _link(zero, adam)
    tensors: dict[str, Tensor] = {}
    for number, parameter in enumerate(model.parameters() if steps else ()):
        for name in MOMENTS:
            whole = safe_get_full_optimizer_state(parameter, name)
            if keep:
                tensors[f"{number}.{name}"] = whole.view(_shape(parameter)).cpu()
        if keep:
            tensors[f"{number}.step"] = torch.as_tensor(steps[0]).float().cpu().clone()
    return tensors


def scatter_optimizer(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Give each rank its part of the tensors of ``gather_optimizer``, or of plain Adam.

    Every rank has them all. DeepSpeed makes the state at the first update, which comes
    after this, so it is made here.
    """
    from deepspeed.utils import (
        safe_set_full_optimizer_state,
        safe_set_local_optimizer_state,
    )

    if not tensors:
        return
    zero, adam = _layers(optimizer)
    splits_weights = _splits_weights(zero)
    for flat in (
        zero.fp32_partitioned_groups_flat
        if splits_weights
        else zero.single_partition_of_fp32_groups
    ):
        adam.state[flat] = {name: torch.zeros_like(flat) for name in MOMENTS}
        adam.state[flat]["step"] = tensors["0.step"].clone()
    if not splits_weights:
        _link(zero, adam)
    for number, parameter in enumerate(model.parameters()):
        for name in MOMENTS:
            whole = tensors[f"{number}.{name}"].to(parameter.device)
            if splits_weights:
                part = _part(whole, _part_size(parameter))
                safe_set_local_optimizer_state(parameter, part, name)
            else:
                safe_set_full_optimizer_state(parameter, whole, name)


def _splits_weights(zero: Any) -> bool:
    return hasattr(zero, "fp32_partitioned_groups_flat")


def _link(zero: Any, adam: optim.Optimizer) -> None:
    """Let DeepSpeed find each parameter's part of Adam's state (ZeRO-1 and 2)."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    for group, flat in zip(
        zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True
    ):
        lazy_init_hp_params_optimizer_state(group, flat, adam.state)


def _part_size(parameter: Any) -> int:
    return parameter.ds_tensor.numel()


def _part(whole: Tensor, size: int) -> Tensor:
    """[size] this rank's part of ``whole``; the last ones' are filled up with 0."""
    start = dist.get_rank() * size
    part = whole.new_zeros(size)
    mine = whole.flatten()[start : start + size]
    part[: len(mine)] = mine
    return part


def _layers(optimizer: Any) -> tuple[Any, optim.Optimizer]:
    """DeepSpeed's optimizer inside accelerate's, and the Adam inside that."""
    return optimizer.optimizer, optimizer.optimizer.optimizer


def _shape(parameter: Any) -> torch.Size:
    """The shape of the whole parameter, also where this rank holds a part only."""
    return getattr(parameter, "ds_shape", parameter.shape)
