"""A recorder of steps for the CPU, which replays operations as a CUDA graph does.

What is recorded is the list of PyTorch's operations with the tensors they had; a replay
does them again on the same memory. Python does not run again, so that a value of the
host that a step took in stays what it was, and one that it asks the device for fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

READING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
}
"""Operations whose result the host waits for."""


class _Tape(TorchDispatchMode):
    """Keeps what is done inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do it, and keep it."""
        if func in READING:
            raise RuntimeError(f"{func} waits for the device inside a recorded step")
        # other views of the same memory: a later call may change the shape of these
        given = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, given, [x.detach() for x in _made(result, given)]))
        return result

    def replay(self) -> None:
        """Do all of it again, into the memory of the first time."""
        with torch.no_grad():
            for func, given, made in self.calls:
                args, kwargs = tree_map_only(Tensor, Tensor.detach, given)
                again = _made(func(*args, **kwargs), given)
                for memory, value in zip(made, again, strict=True):
                    memory.copy_(value)


def _made(result: Any, given: Any) -> list[Tensor]:
    """Tensors of ``result`` in memory that none of ``given`` has."""
    old = {_storage(x) for x in _tensors(given)}
    return [x for x in _tensors(result) if _storage(x) not in old]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Replaying:
    """A Recorder (psl/training/recording.py)."""

    def __init__(self) -> None:
        self.replayed = 0

    def warm_up(self, piece: Callable[[], None]) -> None:
        """Run it."""
        piece()

    def record(self, piece: Callable[[], None]) -> Callable[[], None]:
        """What does again what ``piece`` does, for the first time when first called."""
        tape = _Tape()
        with tape:
            piece()
        is_done = True  # a graph records without doing; this did it

        def replay() -> None:
            nonlocal is_done
            if is_done:
                is_done = False
                return
            tape.replay()
            self.replayed += 1

        return replay
