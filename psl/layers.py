"""The layers of a model, from the input to the output, and their learning rates.

Owns which parameter belongs to which layer, for every family by one rule: modules lie
in their parent in the order in which the forward pass uses them, and the entries of a
list of modules are a layer each.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


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
