"""Weight files of any common form, from anyone -> what they hold.

Owns telling a form by content, and the bounds: no size in a file is believed before
the file has as many bytes, and no object in it is unpickled. Which of the tensors are
the model's is psl/weights/tensors.py's question.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from psl.weights.kinds import SUFFIXES, USUAL_NAMES, find_file
from psl.weights.unpickle import check_pickle, load_inert
from shards.errors import ShardError
from shards.format.schema import parse_json
from shards.system.files import open_plain, read_bounded, read_plain

MAX_BYTES = 4 << 30
"""A longer file of weights is refused; AST's have 0.35 GB."""
MAX_HEADER_BYTES = 8 << 20
"""A longer header of a safetensors file is refused; AST's has 30 kB."""
_OLD_PICKLES = 5
"""In a file of torch.save before torch 1.6."""
_DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
_NOT_TORCH = (
    *(RuntimeError, EOFError, ValueError, KeyError, OSError, MemoryError),
    *(TypeError, AttributeError, IndexError, NotImplementedError),
)
"""What torch.load raises for damaged files."""


def read_file(path: str | Path) -> bytes:
    """The bytes of a file of weights, or of the one in a folder.

    Raises ShardError if there is none, or it is not a plain file, or too long.
    """
    if not Path(path).is_dir():
        return read_bounded(path, MAX_BYTES)
    if (name := find_file(path)) is None:
        raise ShardError(
            f"{path}: no file of weights, or several; expected "
            f"{' or '.join(USUAL_NAMES)}, or the path of one (*{', *'.join(SUFFIXES)})"
        )
    return read_plain(path, name, max_bytes=MAX_BYTES)


def parse_weights(data: bytes, where: str) -> Any:
    """What a file holds: tensors and plain containers, other objects as ``Unread``.

    Raises ValueError if it is of no known form, ShardError if it is damaged.
    """
    if data[:4] == b"PK\x03\x04":
        return _parse_zip(data, where)
    if data[:1] == b"\x80":
        return _parse_pickles(data, where)
    if data[8:9] == b"{":
        return parse_safetensors(data, where)
    found = "is empty" if not data else f"starts with {data[:16]!r}"
    if data[:200].lstrip().startswith(b"<"):
        found = "is a web page, perhaps of an error while it was fetched"
    elif data.startswith(b"version https://git-lfs"):
        found = "is a Git LFS pointer and not the file itself; run git lfs pull"
    raise ValueError(
        f"{where}: {found}; expected a file of torch.save (.pt, .pth, .bin, .ckpt) or "
        "of safetensors"
    )


def parse_safetensors(data: bytes, where: str) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file; ShardError if it is damaged."""
    with _damaged(where):
        check_header(io.BytesIO(data), len(data))
        return safetensors.torch.load(data)


def read_shapes(folder: str | Path, name: str) -> dict[str, list[int]]:
    """The shape of each tensor of a safetensors file below ``folder``.

    Only its header is read, and compared with its size. Raises ShardError if it is not
    there, not a plain file, too long or damaged.
    """
    with open_plain(folder, name, max_bytes=MAX_BYTES) as stream:
        size = os.fstat(stream.fileno()).st_size
        with _damaged(str(Path(folder, name))):
            return check_header(stream, size)


@contextlib.contextmanager
def _damaged(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ShardError(
            f"{where}: damaged safetensors file: {error}; copy or fetch it again"
        ) from None
    except ShardError as error:
        if str(error).startswith(where):
            raise
        raise ShardError(f"{where}: damaged safetensors file: {error}") from None


def check_header(stream: BinaryIO, size: int) -> dict[str, list[int]]:
    """The shape of each tensor of a safetensors file of ``size`` bytes.

    Raises ValueError or ShardError unless the tensors lie one after the other and fill
    the file, each with the bytes of its type and shape.
    """
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    header = parse_json(stream.read(length), where="header")
    if not isinstance(header, dict):
        raise ValueError("its header is not a mapping")
    header.pop("__metadata__", None)
    shapes, spans = {}, []
    for name, entry in header.items():
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if any(type(n) is not int or n < 0 for n in (*shape, start, end)):
            raise ValueError(f"{name!r:.100} has shape {shape!r:.100}")
        num_bytes = math.prod(shape) * _DTYPE_BYTES[entry["dtype"]]
        if end - start != num_bytes:
            raise ValueError(
                f"{name!r:.100} has {end - start} bytes, expected {num_bytes}"
            )
        shapes[name] = shape
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise ValueError(f"tensors overlap or leave a gap at byte {start}")
        at = end
    if at != size - 8 - length:
        raise ValueError(f"tensors of {at} bytes in a file that has room for another")
    return shapes


def _parse_zip(data: bytes, where: str) -> Any:
    """What torch.save wrote since torch 1.6."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
            # of a compressed record a few bytes could stand for all memory
            if any(r.compress_type for r in records) or (
                sum(r.file_size for r in records) > len(data)
            ):
                raise ValueError("compressed records, which torch.save does not write")
            for record in records:
                if record.filename.endswith("/data.pkl"):
                    check_pickle(archive.open(record))
    except (zipfile.BadZipFile, *_NOT_TORCH) as error:
        raise _not_torch(where, error) from None
    return _torch_load(data, where)


def _parse_pickles(data: bytes, where: str) -> Any:
    """What torch.save wrote before torch 1.6: some pickles, then the values."""
    stream = io.BytesIO(data)
    try:
        for _ in range(_OLD_PICKLES):
            if stream.tell() < len(data):
                check_pickle(stream)
    except _NOT_TORCH as error:
        raise _not_torch(where, error) from None
    return _torch_load(data, where)


def _torch_load(data: bytes, where: str) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
    except _NOT_TORCH as error:
        raise _not_torch(where, error) from None
    try:
        return load_inert(data)
    except (pickle.UnpicklingError, zipfile.BadZipFile, *_NOT_TORCH):
        raise ValueError(
            f"{where}: holds more than tensors, or is not a file of torch.save, and is "
            f"not unpickled, as that may run any code ({reason}); save the state_dict "
            "alone: torch.save(model.state_dict(), PATH)"
        ) from None


def _not_torch(where: str, error: Exception) -> ShardError:
    return ShardError(
        f"{where}: cannot be read as a file of torch.save ({error!r:.200}); fetch it "
        "again"
    )
