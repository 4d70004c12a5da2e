"""Tensors by name: loading them from files of any common form, and their digest."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shards.errors import ShardError


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of names, types, shapes and bytes, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


_WRAPPERS = ("model", "state_dict", "model_state_dict", "module")


def load_tensors(data: bytes, where: str) -> Any:
    """What torch.save wrote, if it is tensors and plain containers."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{where}: holds more than tensors, or is no file of torch.save, and is "
            f"not unpickled, as that may run any code ({reason}); save the state_dict "
            "alone: torch.save(model.state_dict(), PATH)"
        ) from None
    except (
        *(RuntimeError, EOFError, ValueError, KeyError, OSError),
        *(TypeError, AttributeError, IndexError),
    ) as error:
        raise ShardError(
            f"{where}: cannot be read as a file of torch.save ({error!r:.200}); fetch "
            "it again"
        ) from None


def find_weights(content: Any, where: str) -> dict[str, Tensor]:
    """The state_dict in what a file held: itself, or in a wrapping dict.

    The prefix ``module.`` that DDP puts before every name is taken off. Raises
    ValueError if there is none.
    """
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"{where}: holds {type(content).__name__}, expected a state_dict, or a "
            f"dict with one under {', '.join(_WRAPPERS)}"
        )
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{where}: {key!r} is {type(value).__name__}, expected tensors by "
                "name; save the state_dict alone"
            )
        if (kind := _unusual(value)) is not None:
            raise ValueError(
                f"{where}: {key!r} is a {kind} tensor, expected plain ones of real "
                "numbers; save the weights as float32"
            )
    names = [str(name) for name in content]
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    return {str(n).removeprefix(prefix): tensor for n, tensor in content.items()}


def _unusual(tensor: Tensor) -> str | None:
    """What keeps a tensor from being a weight; None if nothing does."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.is_meta:
        return "meta (shape without content)"
    if tensor.is_quantized:
        return "quantized"
    return "complex" if tensor.is_complex() else None
