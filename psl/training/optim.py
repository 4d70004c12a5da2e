"""The optimizer, its groups of parameters and its schedule.

Owns the learning rate, a pure function of the step that nothing else keeps or steps,
and the form in which a checkpoint has the optimizer's state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn, optim

from psl.training.config import OptimConfig


def build_optimizer(
    model: nn.Module, config: OptimConfig, *, fused: bool = False
) -> optim.Optimizer:
    """Adam or AdamW over all parameters.

    ``fused``: as one operation, which also leaves everything as it is where found_inf
    says so. On the CPU it rounds otherwise than the default.
    """
    kind = optim.Adam if config.name == "adam" else optim.AdamW
    return kind(
        _groups(model, config),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=fused or None,
    )


def _groups(model: nn.Module, config: OptimConfig) -> Any:
    """Parameters that share learning rate and weight decay, together.

    ``numbers`` are the places of a group's parameters in ``model.parameters()``, and
    ``factor`` is that on the learning rate.
    """
    one_rate = config.layer_decay is None and config.classifier_factor == 1
    if one_rate and (config.name == "adam" or config.weight_decay == 0):
        return model.parameters()
    factors = rate_factors(
        model,
        layer_decay=config.layer_decay,
        classifier_factor=config.classifier_factor,
    )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for number, (name, parameter) in enumerate(model.named_parameters()):
        spared = config.name == "adamw" and parameter.dim() < 2
        decay = 0.0 if spared else config.weight_decay
        group = groups.setdefault(
            (factors[name], decay),
            {
                "params": [],
                "numbers": [],
                "factor": factors[name],
                "weight_decay": decay,
            },
        )
        group["params"].append(parameter)
        group["numbers"].append(number)
    return list(groups.values())


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``num_steps``."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Make the next step use ``value``, times each group's factor."""
    for group in optimizer.param_groups:
        rate = value * group.get("factor", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def make_recordable(optimizer: optim.Optimizer, device: torch.device) -> None:
    """Have ``optimizer`` read its learning rates from ``device``, where they change.

    What is recorded once would otherwise keep the rate of that step forever. On a GPU
    they are float32 there, and float64 in a step that is not recorded.
    """
    # the types in which PyTorch's fused Adam reads a rate from a tensor
    dtype = torch.float32 if device.type == "cuda" else torch.float64
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), dtype=dtype, device=device)
        group["capturable"] = True


def _numbers(optimizer: optim.Optimizer) -> list[int]:
    """The place in ``model.parameters()`` of each parameter of the optimizer."""
    numbers: list[int] = []
    for group in optimizer.param_groups:
        following = range(len(numbers), len(numbers) + len(group["params"]))
        numbers += group.get("numbers", following)
    return numbers


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The state of a plain optimizer, by ``<parameter number>.<name>``.

    The number is that in ``model.parameters()``, whatever the groups are.
    """
    numbers = _numbers(optimizer)
    return {
        f"{numbers[place]}.{name}": tensor.detach().contiguous()
        for place, entry in optimizer.state_dict()["state"].items()
        for name, tensor in entry.items()
    }


def put_optimizer_tensors(
    tensors: dict[str, Tensor], optimizer: optim.Optimizer
) -> None:
    """Make ``tensors`` the state of a plain optimizer."""
    places = {number: place for place, number in enumerate(_numbers(optimizer))}
    full: dict[str, Any] = optimizer.state_dict()
    full["state"] = {}
    for name, tensor in tensors.items():
        number, _, field = name.partition(".")
        full["state"].setdefault(places[int(number)], {})[field] = tensor
    optimizer.load_state_dict(full)
    _lay_out_as_parameters(optimizer)


def _lay_out_as_parameters(optimizer: optim.Optimizer) -> None:
    """Give state the strides of its parameter, channels-last for most convolutions.

    On a GPU fused Adam refuses others, and plain Adam takes one tensor at a time.
    """
    for parameter, entry in optimizer.state.items():
        for name, tensor in entry.items():
            if tensor.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter).copy_(tensor)


def layers(model: nn.Module) -> list[list[str]]:
    """The names of the parameters of each layer, input first, classifier last.

    A layer is an entry of the outermost ModuleList, or Sequential that has two or more
    entries with parameters, or else a child of a module that has such a list below it.
    """
    return [names for names in _walk(model, "") if names]


def _walk(module: nn.Module, prefix: str) -> Iterator[list[str]]:
    yield [prefix + name for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        if _has_list(child) and not _is_list(module):
            yield from _walk(child, f"{prefix}{name}.")
        else:
            yield [f"{prefix}{name}.{inner}" for inner, _ in child.named_parameters()]


def _has_list(module: nn.Module) -> bool:
    return any(_is_list(inner) for inner in module.modules())


def _is_list(module: nn.Module) -> bool:
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        return False
    num_entries = sum(any(True for _ in child.parameters()) for child in module)
    return num_entries >= (1 if isinstance(module, nn.ModuleList) else 2)


def rate_factors(
    model: nn.Module, *, layer_decay: float | None, classifier_factor: float
) -> dict[str, float]:
    """The factor on the learning rate of each parameter, by name.

    ``layer_decay`` to the power of how many layers lie after it; the last layer has
    ``classifier_factor`` instead of 1.
    """
    decay = 1.0 if layer_decay is None else layer_decay
    in_order = layers(model)
    return {
        name: classifier_factor if after == 0 else decay**after
        for after, names in enumerate(reversed(in_order))
        for name in names
    }
