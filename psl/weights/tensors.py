"""Tensors by name: which of a file's are the model's, and their digest."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from psl.weights.files import MAX_BYTES
from psl.weights.unpickle import Unread

_log = logging.getLogger(__name__)

_AVERAGED = (
    *("ema_state_dict", "state_dict_ema", "model_ema", "model_ema_state_dict"),
    *("ema_model", "ema"),
)
"""Where files keep a moving average of the weights, which is what they evaluate."""
_WRAPPERS = (
    *_AVERAGED,
    *("state_dict", "model_state_dict", "model", "module", "net", "student"),
)
"""Names under which files keep a state_dict, in the order in which they are taken."""
_COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step")
"""What averages of weights hold besides the weights."""
_WRAPPED = re.compile(
    r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What torch.compile, FSDP and activation checkpointing put into names."""
MAX_NAMED = 3
"""Names that a message shows."""
MAX_DEPTH = 2
"""Dicts in dicts that are looked into."""


@dataclass(frozen=True)
class Found:
    """The weights of a model that were found in a file."""

    weights: dict[str, Tensor]
    """By the model's own names."""
    note: str | None
    """Where in the file they are, and what was left out, if it was not the whole."""

    def announce(self, where: str) -> None:
        """Say what was taken of the file ``where``, if it was not simply all."""
        if self.note:
            _log.info("%s: takes %s", where, self.note)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of names, types, shapes and bytes, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_weights(content: Any, where: str, *, known: Collection[str]) -> Found:
    """The weights in what a file held: it or a dict in it, names below one prefix.

    ``known`` are names of which a model has one at least, such as its first layer's;
    what stands before such a name, such as ``module.`` (DDP), ``_orig_mod.``
    (torch.compile) or ``model.`` (Lightning), is taken off all. A moving average of
    the weights is preferred to the weights.

    Raises ValueError if there are none, or several models of which none is preferred.
    """
    named = list(_state_dicts(content))
    if not named:
        raise ValueError(_no_weights(content, where))
    path, tensors = next(((p, d) for p, d in named if _prefixes(d, known)), named[0])
    tensors = _unwrapped(tensors)
    prefixes = _prefixes(tensors, known)
    prefix = _choose(prefixes, where) if prefixes else ""
    others = tuple(p for p in prefixes if p != prefix and p.startswith(prefix))
    kept = {
        name.removeprefix(prefix): _check(tensor, name, where)
        for name, tensor in tensors.items()
        if isinstance(name, str)
        and name.startswith(prefix)
        and not name.startswith(others)
        and name.removeprefix(prefix) not in _COUNTERS
    }
    return Found(kept, _note(path, prefix, len(tensors) - len(kept)))


def _state_dicts(content: Any, path: str = "") -> Iterator[tuple[str, Mapping]]:
    """Dicts with tensors in ``content`` and their path in it, the preferred first."""
    if not isinstance(content, Mapping) or path.count(".") > MAX_DEPTH:
        return
    for name in _WRAPPERS:
        if isinstance(content.get(name), Mapping):
            yield from _state_dicts(content[name], f"{path}.{name}".lstrip("."))
    if any(isinstance(value, Tensor) for value in content.values()):
        yield path, content


def _unwrapped(tensors: Mapping) -> Mapping:
    """Without the parts of names that wrappers of modules put in, wherever they are."""
    plain = {_WRAPPED.sub("", n) if isinstance(n, str) else n: n for n in tensors}
    if len(plain) < len(tensors):
        return tensors
    return {new: tensors[name] for new, name in plain.items()}


def _prefixes(tensors: Mapping, known: Collection[str]) -> list[str]:
    """All that stands before names of ``known``; an empty string for nothing."""
    names = [name for name in tensors if isinstance(name, str)]
    ends = tuple(known)
    found = {
        name.removesuffix(end)
        for name in names
        if name.endswith(ends)
        for end in ends
        if name.endswith(end)
    }
    return sorted(p for p in found if not p or p.endswith("."))


def _choose(prefixes: list[str], where: str) -> str:
    """The prefix of the model that is meant; ValueError where nothing tells."""
    averaged = [p for p in prefixes if set(p.split(".")) & {*_AVERAGED, "ema_net"}]
    candidates = averaged or prefixes
    if "" in candidates or len(candidates) == 1:
        return candidates[0]
    raise ValueError(
        f"{where}: holds {len(candidates)} models, with names that begin with "
        f"{', '.join(candidates[:MAX_NAMED])}; save the state_dict of one of them alone"
    )


def _check(value: Any, name: str, where: str) -> Tensor:
    """A tensor that can be a weight, else ValueError."""
    if not isinstance(value, Tensor):
        kind = value.what if isinstance(value, Unread) else type(value).__name__
        raise ValueError(
            f"{where}: {name!r:.100} is {kind}, expected tensors by name; save the "
            "state_dict alone"
        )
    if (unusual := _unusual(value)) is not None:
        raise ValueError(
            f"{where}: {name!r:.100} is a {unusual} tensor, expected plain ones of "
            "real numbers; save the weights as float32"
        )
    if value.numel() * value.element_size() > MAX_BYTES:
        raise ValueError(
            f"{where}: {name!r:.100} has shape {list(value.shape)}, which is larger "
            "than any weights; fetch the file again"
        )
    return value


def _note(path: str, prefix: str, num_left_out: int) -> str | None:
    """For people: where the weights are, if they are not the whole file."""
    parts = []
    if path:
        parts.append(f"the weights under {path!r}")
    if prefix:
        parts.append(f"names without their prefix {prefix!r}")
    if num_left_out:
        parts.append(f"{num_left_out} other entries left out")
    return ", ".join(parts) or None


def _no_weights(content: Any, where: str) -> str:
    """Why no tensors were found."""
    values = content.values() if isinstance(content, Mapping) else [content]
    unread = next((v for v in values if isinstance(v, Unread)), None)
    if unread is not None:
        return (
            f"{where}: holds more than tensors (a {unread.what}), and objects are not "
            "unpickled, as that may run any code; save the state_dict alone: "
            "torch.save(model.state_dict(), PATH)"
        )
    found = type(content).__name__
    if isinstance(content, Mapping):
        names = [str(n)[:50] for n in content if isinstance(n, str | int)]
        found += f" with {', '.join(names[:MAX_NAMED])}" if names else " of nothing"
    return (
        f"{where}: holds {found}, expected a state_dict, or a dict with one under "
        f"{', '.join(_WRAPPERS)}"
    )


def _unusual(tensor: Tensor) -> str | None:
    """What keeps a tensor from being a weight; None if nothing does."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.is_meta:
        return "meta (shape without content)"
    if tensor.is_quantized:
        return "quantized"
    return "complex" if tensor.is_complex() else None
