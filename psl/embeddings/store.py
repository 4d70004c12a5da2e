"""Files of embeddings: NPZ, which is searched where it lies, and Parquet for others.

Owns the format. NPZ holds ``vectors`` [M, D] float16, ``norms`` [M] float32,
``file_of`` [M] int32 into ``files``, ``starts`` and ``ends`` [M] float64 in seconds,
and ``about``, a JSON object; nothing in it is compressed or pickled. Parquet has a row
for each window: file, start, end, embedding (list of float32); ``about`` is in the
metadata of its schema.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from psl.tagging.outputs import import_pyarrow
from shards.errors import ShardError
from shards.system.files import open_atomic, open_regular

FORMAT_VERSION = 1
SUFFIXES = (".npz", ".parquet")
_ABOUT = "psl_embeddings"
_TYPES: dict[str, np.dtype[Any]] = {
    "vectors": np.dtype("<f2"),
    "norms": np.dtype("<f4"),
    "file_of": np.dtype("<i4"),
    "starts": np.dtype("<f8"),
    "ends": np.dtype("<f8"),
}
_ROWS_AT_A_TIME = 1 << 14
_MAX_TEXT = 1 << 28
_BLOCK_VALUES = 1 << 19


@dataclass(frozen=True)
class About:
    """What made the embeddings."""

    model: str
    """As it was named."""
    backbone_sha256: str
    """Of all weights but the last layer."""
    sample_rate: int
    window_seconds: float
    hop_seconds: float
    size: int
    """Values of a vector."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Part:
    """Windows of one file of audio."""

    file: str
    starts: np.ndarray
    """[K] float64, seconds."""
    ends: np.ndarray
    vectors: np.ndarray
    """[K, D] float16."""


@dataclass(frozen=True)
class Embeddings:
    """An open NPZ file; ``vectors`` are read when they are used."""

    about: About
    files: Sequence[str]
    vectors: np.ndarray
    norms: np.ndarray
    file_of: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.norms)


def write_npz(out: Path, about: About, parts: Sequence[Path]) -> int:
    """Write an NPZ of ``parts``, files of ``save_part``; the number of windows.

    One part is in memory at a time.
    """
    total = sum(len(np.load(part)["starts"]) for part in parts)
    files = [str(load_part(part).file) for part in parts]
    with open_atomic(out) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, kind in _TYPES.items():
            shape = (total, about.size) if name == "vectors" else (total,)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": kind.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for number, path in enumerate(parts):
                    member.write(_column(load_part(path), name, number).tobytes())
        for name, value in (("files", files), ("about", asdict(about))):
            text = json.dumps(value).encode("utf-8", "surrogateescape")
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.frombuffer(text, np.uint8))
    return total


def _column(part: Part, name: str, number: int) -> np.ndarray:
    if name == "norms":
        norms = np.linalg.norm(part.vectors.astype(np.float32), axis=1)
        return norms.astype(_TYPES[name])
    if name == "file_of":
        return np.full(len(part.starts), number, _TYPES[name])
    column: np.ndarray = getattr(part, name)
    return np.ascontiguousarray(column, _TYPES[name])


def write_parquet(out: Path, about: About, parts: Sequence[Path]) -> int:
    """Write a Parquet file of ``parts``; the number of windows."""
    arrow = import_pyarrow()
    text, number = arrow.string(), arrow.float64()
    vector = arrow.list_(arrow.float32(), about.size)
    fields = {"file": text, "start": number, "end": number, "embedding": vector}
    metadata = {_ABOUT: json.dumps(asdict(about))}
    schema = arrow.schema(list(fields.items()), metadata=metadata)
    total = 0
    with (
        open_atomic(out) as stream,
        arrow.parquet.ParquetWriter(stream, schema) as writer,
    ):
        for path in parts:
            part = load_part(path)
            file = part.file.encode(errors="backslashreplace").decode()
            flat = arrow.array(part.vectors.astype(np.float32).ravel())
            columns = [
                arrow.array([file] * len(part.starts), text),
                arrow.array(part.starts),
                arrow.array(part.ends),
                arrow.FixedSizeListArray.from_arrays(flat, about.size),
            ]
            writer.write_table(arrow.table(columns, schema=schema), _ROWS_AT_A_TIME)
            total += len(part.starts)
    return total


def save_part(path: Path, part: Part) -> None:
    """Keep the windows of one file until all are there."""
    name = np.frombuffer(part.file.encode("utf-8", "surrogateescape"), np.uint8)
    with open_atomic(path) as stream:
        np.savez(
            stream,
            place=name,
            starts=part.starts,
            ends=part.ends,
            vectors=part.vectors,
        )


def load_part(path: Path) -> Part:
    """What save_part has kept."""
    with np.load(path) as data:
        name = data["place"].tobytes().decode("utf-8", "surrogateescape")
        return Part(name, data["starts"], data["ends"], data["vectors"])


def open_embeddings(path: str | Path) -> Embeddings:
    """The NPZ or Parquet file of psl.embed at ``path``.

    The vectors of an NPZ stay on disk, mapped into memory; those of a Parquet file are
    read. Raises ShardError for a file that is damaged or another's.
    """
    try:
        if Path(path).suffix.lower() == ".parquet":
            found = _open_parquet(path)
        else:
            with open_regular(path) as stream:
                found = _open_npz(Path(path), stream)
        _check(found)
        return found
    except (
        *(KeyError, ValueError, TypeError, OverflowError, EOFError),
        *(zipfile.BadZipFile, ValidationError, NotImplementedError),
    ) as error:
        if "not installed" in str(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ShardError(
            f"{path}: no embeddings of psl embed, or damaged ({reason}); make it again"
        ) from None


def _open_npz(path: Path, stream: BinaryIO) -> Embeddings:
    arrays = {}
    with zipfile.ZipFile(stream) as archive:
        for name in (*_TYPES, "files", "about"):
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            arrays[name] = _map(path, stream, info)
    about = TypeAdapter(About).validate_python(_parse(arrays["about"]))
    files = TypeAdapter(list[str]).validate_python(_parse(arrays["files"]))
    for name, kind in _TYPES.items():
        if arrays[name].dtype != kind:
            raise ValueError(f"{name} has type {arrays[name].dtype}, expected {kind}")
    return Embeddings(about, files, *(arrays[name] for name in _TYPES))


def _map(path: Path, stream: BinaryIO, info: zipfile.ZipInfo) -> np.ndarray:
    """The array of an uncompressed member, where it lies in the file."""
    stream.seek(info.header_offset + 26)  # lengths of name and extra field
    name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
    stream.seek(info.header_offset + 30 + name + extra)
    first = stream.tell()
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{info.filename} is of another version of NumPy's format")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    size = int(np.prod(shape)) * kind.itemsize
    if fortran or kind.hasobject or stream.tell() + size != first + info.file_size:
        raise ValueError(f"{info.filename} is not whole")
    if not size:
        return np.zeros(shape, kind)
    return np.memmap(path, kind, "c", stream.tell(), shape)


def _parse(array: np.ndarray) -> Any:
    if array.dtype != np.uint8 or array.size > _MAX_TEXT:
        raise ValueError("its description is not JSON")
    return json.loads(array.tobytes())


def _open_parquet(path: str | Path) -> Embeddings:
    arrow = import_pyarrow()
    with open_regular(path) as stream:
        try:
            table = arrow.parquet.read_table(stream)
        except arrow.ArrowException as error:
            raise ValueError(str(error)) from None
        about = json.loads(table.schema.metadata[_ABOUT.encode()])
        vectors = table.column("embedding").combine_chunks()
        flat = vectors.flatten().to_numpy()
    found = TypeAdapter(About).validate_python(about)
    names = table.column("file").to_pylist()
    files = list(dict.fromkeys(names))
    index = {name: number for number, name in enumerate(files)}
    values = flat.reshape(-1, found.size)
    return Embeddings(
        found,
        files,
        values.astype(np.float16),
        np.linalg.norm(values, axis=1),
        np.array([index[name] for name in names], np.int32),
        table.column("start").to_numpy(),
        table.column("end").to_numpy(),
    )


def _check(found: Embeddings) -> None:
    """ValueError unless the columns fit each other."""
    if found.about.format_version != FORMAT_VERSION:
        raise ValueError(f"format {found.about.format_version}")
    if found.vectors.shape != (len(found), found.about.size):
        raise ValueError(f"vectors of shape {found.vectors.shape}")
    for column in (found.file_of, found.starts, found.ends):
        if column.shape != (len(found),):
            raise ValueError(f"a column of shape {column.shape}")
    if len(found) and not 0 <= found.file_of.min() <= found.file_of.max() < len(
        found.files
    ):
        raise ValueError("a window of no file")


def blocks(found: Embeddings) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their vectors [K, D] float32, a block after the other.

    Of a size that stays in a core's cache: with larger ones a search takes ten times as
    long, and NumPy converts float16 seven times slower than torch (2026-11-29,
    docs/embeddings.md).
    """
    size = max(16, _BLOCK_VALUES // max(1, found.about.size))
    for start in range(0, len(found), size):
        rows = slice(start, min(start + size, len(found)))
        yield rows, torch.from_numpy(found.vectors[rows]).float()
