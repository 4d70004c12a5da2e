"""HDF5 files of others: how they are opened, and which datasets in them are read.

An HDF5 file may take values from other files, and claims any shape. Only what lies in
the file itself is read, within bounds. Most of it by the format's own library.
"""

from __future__ import annotations

import functools
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from shards.errors import ShardError
from shards.packing.sources.listing import import_optional

READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError)
"""What h5py raises for a file that is damaged or forged."""

MAX_CHUNK_BYTES = 1 << 28
"""A larger chunk of a dataset is refused: all of it is read for any value in it."""


MAX_FILE_BYTES = 1 << 28
"""A larger encoded file in a dataset is refused."""

_REFERENCE = struct.Struct("<IQI")
_COLLECTION = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HHIQ")


@functools.lru_cache(maxsize=64)
def open_hdf5(path: str) -> Any:
    """The open h5py.File of ``path``; ShardError if it is not one that can be read."""
    h5py = import_optional("h5py", extra="hdf5")
    try:
        return h5py.File(path, "r")
    except READ_ERRORS as error:
        raise ShardError(f"{path}: not a readable HDF5 file: {error}") from None


def find_dataset(path: str | Path, name: str) -> Any:
    """The h5py.Dataset ``name``; None if there is none.

    Raises ShardError if it takes its values from elsewhere, or cannot be read in
    bounded memory.
    """
    h5py = import_optional("h5py", extra="hdf5")
    file, where = open_hdf5(str(path)), f"{path}: dataset {name!r}"
    try:
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ShardError(f"{where}: lies in another file; copy it into this one")
        data = file.get(name)
        if not isinstance(data, h5py.Dataset):
            return None
        if data.external or data.is_virtual:
            raise ShardError(
                f"{where}: its values lie in other files; copy them into this one"
            )
        check_chunks(data, where)
    except READ_ERRORS as error:
        raise ShardError(f"{where}: damaged: {error}") from None
    return data


def check_chunks(data: Any, where: str) -> None:
    """ShardError if a value of the dataset cannot be read in bounded memory."""
    size = math.prod(data.chunks or ()) * data.dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        raise ShardError(
            f"{where}: chunks of {size} bytes, expected at most {MAX_CHUNK_BYTES}; "
            "write it again with smaller ones"
        )


def read_bytes(path: str | Path, data: Any, row: int) -> bytes:
    """The bytes in ``row`` of a dataset [n] of byte arrays of any length.

    Read from the file itself by the format's specification (version 3, III.E, global
    heap), since the library never returns from some damaged heaps (2.0.0, 2026-11-28:
    7 of 1500 files). Raises ShardError if they are damaged or too many.
    """
    try:
        start, base = _find_reference(data, row)
        with open(path, "rb") as stream:
            length, heap, index = _unpack_at(stream, _REFERENCE, start)
            if length > MAX_FILE_BYTES:
                raise ShardError(f"{length} bytes, expected at most {MAX_FILE_BYTES}")
            return _read_object(stream, base + heap, index, length)
    except (struct.error, *READ_ERRORS) as error:
        raise ShardError(f"damaged: {error}; fetch the file again") from None


def _find_reference(data: Any, row: int) -> tuple[int, int]:
    """Where in the file a row's reference lies, and where addresses begin."""
    plist = data.file.id.get_create_plist()
    if plist.get_sizes() != (8, 8) or data.id.get_create_plist().get_nfilters():
        raise ShardError("compressed, or of an unusual form; write it again with h5py")
    first = 0
    if data.chunks:
        first = row - row % data.chunks[0]
        start = data.id.get_chunk_info_by_coord((first,)).byte_offset
    else:
        start = data.id.get_offset()
    if start is None:
        raise ShardError("never written; remove the row")
    return start + _REFERENCE.size * (row - first), plist.get_userblock()


def _read_object(stream: BinaryIO, heap: int, index: int, length: int) -> bytes:
    """``length`` bytes of one object in the collection at byte ``heap``."""
    magic, _, size = _unpack_at(stream, _COLLECTION, heap)
    position, end = heap + _COLLECTION.size, heap + size
    for _ in range(1 << 16):  # there are no more numbers
        if magic != b"GCOL" or position >= end:
            break
        number, _, _, size = _unpack_at(stream, _OBJECT, position)
        position += _OBJECT.size
        if number == index and length <= size:
            data = stream.read(length)
            if len(data) == length:
                return data
        position += size + -size % 8
    raise ShardError("damaged: its bytes are not there; fetch the file again")


def _unpack_at(
    stream: BinaryIO, fields: struct.Struct, position: int
) -> tuple[Any, ...]:
    stream.seek(position)
    return fields.unpack(stream.read(fields.size))
