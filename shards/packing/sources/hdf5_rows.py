"""AudioSet packed in HDF5 files as PANNs, PaSST and EfficientAT have them.

A clip is a row of three datasets: ``audio_name`` [n] (``Y<id>.wav``), ``waveform``
[n, samples] of int16 or ``mp3`` [n] of encoded files, and ``target`` [n, classes] of
0 and 1, or of bits, eight to a byte (numpy.packbits). The rate of waveforms is the
attribute ``sample_rate`` of the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.audio.decode import SUFFIXES, load_clip, to_mono_int16
from shards.errors import ShardError, naming
from shards.format.classes import Classes
from shards.format.schema import MAX_CLIP_SECONDS, make_key
from shards.packing.names import parse_stem
from shards.packing.sources.hdf5_file import (
    READ_ERRORS,
    find_dataset,
    open_hdf5,
    read_bytes,
)
from shards.packing.sources.listing import Clip, Listing, import_optional

MAX_ROWS = 1 << 22
"""Rows of one file: twice AudioSet. Datasets claim any number without holding it."""

_ROWS_AT_A_TIME = 4096

_YOUTUBE = re.compile(r"Y(.{11})")


@dataclass(frozen=True)
class HDF5Rows:
    """One file in this form."""

    path: str
    names: tuple[str, ...]
    """Name of each row's audio file, with its folder; empty where it has none."""
    rate: int | None
    """Hz of the waveforms; None if the rows are encoded files."""


def is_in_rows(path: str | Path) -> bool:
    """Whether an HDF5 file is in this form, and not one dataset a clip."""
    return find_dataset(path, "audio_name") is not None and any(
        find_dataset(path, name) is not None for name in ("waveform", "mp3")
    )


def read_rows(path: str | Path, rate: int | None) -> HDF5Rows:
    """Names and rate of the rows of a file; ``rate`` (Hz) is what a user says.

    Raises ShardError if the file is not in the form, or its rate is not known, or is
    another than ``rate``.
    """
    names, waveforms = find_dataset(path, "audio_name"), find_dataset(path, "waveform")
    files = find_dataset(path, "mp3")
    if names is None or (waveforms is None) == (files is None):
        found = ", ".join(map(str, list(open_hdf5(str(path)))[:10])) or "nothing"
        raise ShardError(
            f"{path}: expected datasets audio_name, target, and waveform or mp3; found "
            f"{found}"
        )
    if names.ndim != 1 or len(names) > MAX_ROWS or names.dtype.kind not in "SO":
        raise ShardError(
            f"{path}: audio_name of shape {list(names.shape)} and type {names.dtype}, "
            f"expected at most {MAX_ROWS} names"
        )
    if files is not None:
        _check_files(path, files, len(names))
        return HDF5Rows(str(path), _read_names(path, names), None)
    known = _known_rate(path, rate)
    if waveforms.ndim != 2 or len(waveforms) != len(names):
        raise ShardError(
            f"{path}: waveform of shape {list(waveforms.shape)}, expected "
            f"[{len(names)}, samples] as there are {len(names)} names"
        )
    if waveforms.shape[1] > MAX_CLIP_SECONDS * known:
        raise ShardError(
            f"{path}: clips of {waveforms.shape[1] / known:.0f} s, and a clip may have "
            f"{MAX_CLIP_SECONDS:g} s; cut them"
        )
    return HDF5Rows(str(path), _read_names(path, names), known)


def _check_files(path: str | Path, files: Any, num_rows: int) -> None:
    h5py = import_optional("h5py", extra="hdf5")
    inner = h5py.check_vlen_dtype(files.dtype)
    if files.shape != (num_rows,) or inner not in (np.dtype("u1"), np.dtype("i1")):
        raise ShardError(
            f"{path}: mp3 of shape {list(files.shape)} and type {files.dtype}, "
            f"expected {num_rows} arrays of bytes"
        )


def _known_rate(path: str | Path, said: int | None) -> int:
    try:
        stated = open_hdf5(str(path)).attrs.get("sample_rate")
        stated = None if stated is None else int(np.asarray(stated).item())
    except READ_ERRORS as error:
        raise ShardError(f"{path}: attribute sample_rate: {error}") from None
    if stated is None and said is None:
        raise ShardError(
            f"{path}: no attribute sample_rate; tell the rate of its waveforms by "
            "--source-rate (PANNs: 32000)"
        )
    if None not in (stated, said) and stated != said:
        raise ShardError(
            f"{path}: sample_rate {stated} Hz, and --source-rate {said}; leave the "
            "option out, or correct the file"
        )
    return int(stated if stated is not None else said or 0)


def _read_names(path: str | Path, names: Any) -> tuple[str, ...]:
    try:
        if names.dtype.kind == "O":
            values = [read_bytes(path, names, row) for row in range(len(names))]
        else:
            values = [value for part in _parts(names) for value in part.tolist()]
        return tuple(value.rstrip(b"\0").decode() for value in values)
    except (ShardError, *READ_ERRORS) as error:
        raise ShardError(f"{path}: audio_name cannot be read: {error}") from None


def _parts(data: Any) -> Iterator[np.ndarray]:
    """The rows of a dataset, some at a time."""
    for start in range(0, len(data), _ROWS_AT_A_TIME):
        yield np.asarray(data[start : start + _ROWS_AT_A_TIME])


def list_clips(
    files: Sequence[str | Path], classes: Classes, *, rate: int | None
) -> Listing:
    """The clips of all ``files``, with the labels in their targets.

    Columns of targets are the classes in order. A row without a name, which PANNs
    leaves for a file that it did not find, is missing. Raises ShardError as read_rows
    does, and naming file and row of a target that cannot be one of these classes.
    """
    clips, missing = [], []
    for path in files:
        rows = read_rows(path, rate)
        labels = _read_labels(path, len(rows.names), classes)
        for row, (name, found) in enumerate(zip(rows.names, labels, strict=True)):
            if name:
                clips.append(_clip(rows, row, name, found))
            else:
                missing.append([f"row {row}", "missing", f"{path}: no name, no audio"])
    provenance = {
        "files": [Path(path).name for path in files],
        "file_bytes": sum(Path(path).stat().st_size for path in files),
        "source_rate": rate,
    }
    return Listing(", ".join(map(str, files)), clips, missing, provenance, load)


def _clip(rows: HDF5Rows, row: int, name: str, labels: tuple[int, ...]) -> Clip:
    clip_id, start_seconds = parse_stem(row_stem(name))
    with naming(f"{rows.path}: row {row}"):
        key = make_key(clip_id, start_seconds)
    return Clip(key, clip_id, start_seconds, labels, (rows.path, row, rows.rate))


def row_stem(name: str) -> str:
    """Name of a row's file: no folder, no suffix, no ``Y`` before an id of YouTube."""
    stem, suffix = os.path.splitext(name.replace("\\", "/").rpartition("/")[2])
    stem = stem if suffix.lower() in SUFFIXES else stem + suffix
    match = _YOUTUBE.fullmatch(stem)
    return match[1] if match else stem


def _read_labels(
    path: str | Path, num_rows: int, classes: Classes
) -> Iterator[tuple[int, ...]]:
    """Class indices of each row, ascending."""
    target, count = find_dataset(path, "target"), len(classes)
    packed = (num_rows, -(-count // 8))
    shape = None if target is None else target.shape
    is_packed = shape == packed != (num_rows, count) and target.dtype == np.uint8
    if shape != (num_rows, count) and not is_packed:
        found = "none" if shape is None else f"{list(shape)} of {target.dtype}"
        raise ShardError(
            f"{path}: target {found}, expected {[num_rows, count]} for the {count} "
            f"classes, or {list(packed)} of uint8; give the list these labels were "
            "made with"
        )
    row = 0
    try:
        for part in _parts(target):
            if is_packed:
                part = np.unpackbits(part, axis=1)
            values = part[:, :count]
            is_odd = ~np.isin(values, (0, 1)).all(axis=1) | part[:, count:].any(axis=1)
            if is_odd.any():
                bad = row + int(np.argmax(is_odd))
                raise ShardError(
                    f"{path}: row {bad} of target is not 0 and 1 for {count} classes; "
                    "give the list these labels were made with"
                )
            for flags in values != 0:
                yield tuple(np.flatnonzero(flags).tolist())
            row += len(part)
    except READ_ERRORS as error:
        raise ShardError(f"{path}: target cannot be read: {error}") from None


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a clip."""
    path, row, rate = clip.place
    name = "mp3" if rate is None else "waveform"
    where = f"{path}: {name} of row {row}"
    data = find_dataset(path, name)
    if data is None or row >= len(data):
        raise ShardError(f"{where}: gone since it was listed")
    try:
        if rate is None:
            return load_clip(read_bytes(path, data, row), sample_rate=sample_rate)
        values = np.asarray(data[row])
        return to_mono_int16(values, rate=rate, sample_rate=sample_rate)
    except (ShardError, *READ_ERRORS) as error:
        raise ShardError(f"{where}: {error}") from None
