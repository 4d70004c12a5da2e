"""Tables of soft labels in Parquet or HDF5, read a few rows at a time.

Owns the two forms: a row for each chunk, with its clip's key, its number in the clip
and its probabilities. A file may come from anyone; what it claims to hold is compared
with what the audio needs before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psl.labelling.config import ImportConfig
from shards.errors import ShardError
from shards.packing.sources.hdf5_file import READ_ERRORS, check_chunks, read_bytes
from shards.packing.sources.listing import import_optional

BATCH_ROWS = 4096
"""Chunks read at a time."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a table."""

    keys: list[str]
    chunks: np.ndarray
    """[B] int64, not yet compared with the clips."""
    probs: np.ndarray
    """[B, outputs] float64, not yet compared with [0, 1]."""


def read_rows(config: ImportConfig, num_rows: int, num_outputs: int) -> Iterator[Rows]:
    """All rows of the source, some at a time, with ``num_outputs`` probabilities each.

    Raises ShardError if it is not such a table, or has more than ``num_rows``.
    """
    suffix = Path(config.source).suffix
    if suffix == ".parquet":
        yield from _read_parquet(config, num_rows, num_outputs)
    elif suffix in (".h5", ".hdf5"):
        yield from _read_hdf5(config, num_rows, num_outputs)
    else:
        raise ValueError(
            f"{config.source}: expected a file named *.parquet, *.h5 or *.hdf5"
        )


def _check_number(config: ImportConfig, found: int, most: int) -> None:
    if found > most:
        raise ShardError(
            f"{config.source}: {found} rows, but the audio has {most} chunks of "
            f"{config.chunk_seconds:g} s; give the audio, chunk_seconds and "
            "hop_seconds of the labels"
        )


def _read_parquet(
    config: ImportConfig, num_rows: int, num_outputs: int
) -> Iterator[Rows]:
    parquet = import_optional("pyarrow.parquet", extra="parquet")
    wanted = [config.key, config.chunk, config.probs]
    try:
        file = parquet.ParquetFile(config.source)
        _check_columns(config, wanted, file.schema_arrow.names)
        _check_number(config, file.metadata.num_rows, num_rows)
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            keys, chunks, probs = (batch.column(name) for name in wanted)
            if any(column.null_count for column in (keys, chunks, probs)):
                raise ShardError(f"{config.source}: a row without a value; remove it")
            yield Rows(
                keys=[str(key) for key in keys.to_pylist()],
                chunks=_integers(config, chunks.to_numpy(zero_copy_only=False)),
                probs=_matrix(config, probs, num_outputs),
            )
    except (OSError, ValueError, NotImplementedError) as error:
        raise ShardError(f"{config.source}: not readable as Parquet: {error}") from None


def _matrix(config: ImportConfig, column: Any, num_outputs: int) -> np.ndarray:
    """[B, outputs] of a column of lists."""
    compute = import_optional("pyarrow.compute", extra="parquet")
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    _check_outputs(config, lengths, num_outputs)
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64).reshape(len(column), num_outputs)


def _read_hdf5(config: ImportConfig, num_rows: int, num_outputs: int) -> Iterator[Rows]:
    h5py = import_optional("h5py", extra="hdf5")
    wanted = [config.key, config.chunk, config.probs]
    try:
        with h5py.File(config.source, "r") as file:
            _check_columns(config, wanted, list(file))
            columns = [_plain_dataset(config, file, h5py, name) for name in wanted]
            keys, chunks, probs = columns
            _check_number(config, len(probs), num_rows)
            if {len(column) for column in columns} != {len(probs)} or probs.ndim != 2:
                named = zip(wanted, columns, strict=True)
                shapes = ", ".join(f"{name} {data.shape}" for name, data in named)
                raise ShardError(
                    f"{config.source}: shapes {shapes}; expected {len(probs)} rows each"
                )
            _check_outputs(config, np.array(probs.shape[1:]), num_outputs)
            for start in range(0, len(probs), BATCH_ROWS):
                part = slice(start, min(start + BATCH_ROWS, len(probs)))
                yield Rows(
                    keys=_texts(config, keys, part),
                    chunks=_integers(config, chunks[part]),
                    probs=np.asarray(probs[part], np.float64),
                )
    except READ_ERRORS as error:
        raise ShardError(f"{config.source}: not readable as HDF5: {error}") from None


def _plain_dataset(config: ImportConfig, file: Any, h5py: Any, name: str) -> Any:
    """A dataset whose values are in this file; ShardError for any other."""
    is_here = isinstance(file.get(name, getlink=True), h5py.HardLink)
    data = file[name] if is_here else None
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise ShardError(
            f"{config.source}: {name!r} is not a dataset with values of its own"
        )
    check_chunks(data, f"{config.source}: dataset {name!r}")
    return data


def _texts(config: ImportConfig, data: Any, part: slice) -> list[str]:
    """Keys of some rows; those of any length are read by the format's specification."""
    if data.dtype.kind == "O":
        rows = range(part.start, part.stop)
        return [_text(read_bytes(config.source, data, row)) for row in rows]
    return [_text(value) for value in data[part]]


def _check_columns(config: ImportConfig, wanted: list[str], found: list[str]) -> None:
    for name, option in zip(wanted, ("key", "chunk", "probs"), strict=True):
        if name not in found:
            raise ShardError(
                f"{config.source}: no {name!r} among {', '.join(found):.300}; name the "
                f"right one with {option}="
            )


def _check_outputs(config: ImportConfig, lengths: np.ndarray, expected: int) -> None:
    """ShardError unless all rows have as many probabilities as there are classes."""
    wrong = lengths[lengths != expected]
    if len(wrong):
        raise ShardError(
            f"{config.source}: {wrong[0]} probabilities in a row, expected {expected}, "
            "one for each class; name their class list with classes="
        )


def _integers(config: ImportConfig, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iu":
        raise ShardError(
            f"{config.source}: {config.chunk!r} has values of type {values.dtype}, "
            "expected whole numbers from 0"
        )
    return values.astype(np.int64)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
