"""Tensors out of a torch.save file that also holds objects, none of which is made.

Training frameworks save optimizers, settings and callbacks next to the weights. Here
every class and function of a pickle is a stand-in that does nothing, except the few
that describe tensors; no module is imported and no foreign code runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import torch
from torch import Tensor

MAX_PICKLE_BYTES = 64 << 20
"""A longer description of the tensors is refused; that of AST's has 30 kB."""
MAX_OBJECTS = 1 << 20
"""Objects that a tuple may hold, those in its own tuples counted each time."""
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Unread:
    """An object in a file that is not made; takes whatever it is given."""

    what = "an object"
    """Its class, as the file names it."""

    def __new__(cls, *_: Any, **__: Any) -> Unread:
        """One without content."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Unread:
        """What a method of the object would give."""
        return self

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def append(self, _: object) -> None:
        """Nothing."""

    extend = append
    add = append


def load_inert(data: bytes) -> Any:
    """What torch.save put into a zip file, with ``Unread`` for all but tensors.

    Raises pickle.UnpicklingError, zipfile.BadZipFile, or an error of the types that
    damaged pickles raise.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        folder = name.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("saved on a big-endian machine")
        pickled = archive.read(name)
        return _Unpickler(io.BytesIO(pickled), archive, folder).load()


def check_pickle(stream: IO[bytes]) -> None:
    """Step over a pickle; ValueError if a few bytes of it would take memory or hours.

    That are a memo with a huge number, and tuples of tuples, whose hash looks at each
    of them as often as it is named. Nothing is made.
    """
    sizes: list[int | None] = []  # of the objects on the stack; None for a mark
    memo: dict[int, int | None] = {}
    argument: Any
    at: Any
    for opcode, argument, at in pickletools.genops(stream):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if argument is None else argument
            memo[number] = sizes[-1]
            if number > at or at > MAX_PICKLE_BYTES:
                raise ValueError(f"a memo of {number} entries at byte {at}")
            continue
        if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            sizes.append(memo[argument])
            continue
        taken = _take(sizes, opcode.stack_before)
        is_hashed = opcode.name.startswith("TUPLE") or opcode.name == "FROZENSET"
        size = 1 + sum(taken) if is_hashed else 1
        if size > MAX_OBJECTS:
            raise ValueError(f"a tuple of more than {MAX_OBJECTS} objects")
        sizes += [
            None if kind is pickletools.markobject else size
            for kind in opcode.stack_after
        ]


def _take(sizes: list[int | None], before: list[Any]) -> list[int]:
    """What an opcode takes off the stack, down to the last mark if it wants that."""
    taken: list[int] = []
    if pickletools.markobject in before:
        while (size := sizes.pop()) is not None:
            taken.append(size)
        before = before[: before.index(pickletools.markobject)]
    return taken + [sizes.pop() or 1 for _ in before]


class _Unpickler(pickle.Unpickler):
    """Knows tensors and ordered dicts, and makes nothing else."""

    def __init__(
        self, stream: io.BytesIO, archive: zipfile.ZipFile, folder: str
    ) -> None:
        super().__init__(stream)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for whatever the file names."""
        known: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": OrderedDict,
            "torch.Size": lambda sizes=(): tuple(sizes),
            "torch._utils._rebuild_tensor_v2": _make_tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        what = f"{module}.{name}"
        return known.get(what) or type("Unread", (Unread,), {"what": what[:100]})

    def persistent_load(self, pid: Any) -> Tensor:
        """The values [n] of a storage, once for all tensors that share it."""
        _, dtype, key, *_ = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError("a storage of an unknown type")
        if key not in self._storages:
            values = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = (
                torch.frombuffer(values, dtype=dtype) if values else torch.empty(0)
            )
        return self._storages[key]


def _make_tensor(values: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of the storage ``values`` [n]; ValueError if it would leave it."""
    numbers = (offset, *size, *stride)
    if not isinstance(values, Tensor) or len(size) != len(stride):
        raise ValueError("not a tensor")
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a negative size")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(values):
        raise ValueError("a tensor larger than its storage")
    return values.as_strided(tuple(size), tuple(stride), offset)
