"""HDF5 files of others: how they are opened, and which datasets in them are read.

An HDF5 file may take values from other files, and claims any shape. Only what lies in
the file itself is read, within bounds. The format's own library does the rest.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.packing.sources.listing import import_optional

READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError)
"""What h5py raises for a file that is damaged or forged."""

MAX_CHUNK_BYTES = 1 << 28
"""A larger chunk of a dataset is refused: all of it is read for any value in it."""


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
        size = math.prod(data.chunks or ()) * data.dtype.itemsize
    except READ_ERRORS as error:
        raise ShardError(f"{where}: damaged: {error}") from None
    if size > MAX_CHUNK_BYTES:
        raise ShardError(
            f"{where}: chunks of {size} bytes, expected at most {MAX_CHUNK_BYTES}; "
            "write it again with smaller ones"
        )
    return data
