"""Waveforms in HDF5 files with a list of them, as the published PSL code keeps them.

The list is a TSV with columns ``filename``, ``labels`` (class indices parted by ``;``)
and ``hdf5path``; others are ignored. In the HDF5 file a clip is one dataset of PCM
values [N] or [N, channels] that has the file's name, with or without its folders
(RicherMans/PSL, scripts/2_prepare_data.sh).
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

import numpy as np

from shards.audio.decode import to_mono_int16
from shards.errors import ShardError
from shards.format.schema import MAX_CLIP_SECONDS
from shards.format.weak_labels import LabelReader
from shards.packing.sources.listing import Clip, Listing, import_optional, join_labels
from shards.system.files import file_sha256


def list_clips(
    tsv: str | Path, reader: LabelReader, *, file: str | Path | None, rate: int
) -> Listing:
    """The clips of ``tsv``, whose samples are at ``rate`` Hz (HDF5 does not say).

    ``file`` is the HDF5 file of all clips, if the column hdf5path is not there or out
    of date. Raises ShardError naming file and line of what is wrong; a clip that is
    not in its HDF5 file is missing.
    """
    clips, missing = [], []
    for where, row in _read_tsv(tsv, needs_file=file is None):
        name, container = row["filename"], str(file or row["hdf5path"])
        present = _names(container)
        stored = next(
            (n for n in (name.lstrip("/"), Path(name).name) if n in present), None
        )
        clip = Clip.named(
            Path(name).stem,
            row["labels"],
            (container, stored, rate),
            reader=reader,
            where=where,
        )
        if stored is None:
            what = f"{container} has no dataset {name!r}"
            missing.append([clip.key, "missing", what])
        else:
            clips.append(clip)
    provenance = {"tsv_sha256": file_sha256(tsv), "source_rate": rate}
    return Listing(str(tsv), join_labels(clips), missing, provenance, load)


def _read_tsv(
    path: str | Path, *, needs_file: bool
) -> list[tuple[str, dict[str, str]]]:
    """Place and fields of each row."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path}: cannot read the list of clips: {error}") from None
    wanted = ["filename", "labels"] + ["hdf5path"] * needs_file
    for number, row in enumerate(rows):
        if any(row.get(column) is None for column in wanted):
            found = ", ".join(str(column) for column in row)
            raise ShardError(
                f"{path}: line {number + 2}: expected tab-separated columns "
                f"{', '.join(wanted)}; found {found}, or fewer fields"
            )
    if not rows:
        raise ShardError(f"{path}: no clips; expected rows below a header line")
    return [(f"{path}: line {n + 2}", row) for n, row in enumerate(rows)]


@functools.lru_cache(maxsize=64)
def _open(path: str) -> Any:
    h5py = import_optional("h5py", extra="hdf5")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ShardError(f"{path}: not a readable HDF5 file: {error}") from None


@functools.lru_cache(maxsize=64)
def _names(path: str) -> set[str]:
    """Names of all datasets in a file, those in groups with their folders."""
    names: set[str] = set()
    _open(path).visit(names.add)
    return names


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a clip."""
    path, name, rate = clip.place
    data = _open(path)[name]
    where = f"{path}: dataset {name!r}"
    is_pcm = getattr(data, "shape", ()) and data.dtype.kind in "iuf" and data.size
    if not is_pcm:
        raise ShardError(f"{where}: no PCM values; remove it from the list")
    if (
        data.dtype == np.uint8
    ):  # 8-bit PCM in HDF5 is unheard of, files as bytes are not
        raise ShardError(
            f"{where}: bytes, which may be an encoded file; expected int16 or float PCM"
        )
    if data.shape[0] > MAX_CLIP_SECONDS * rate:
        raise ShardError(
            f"{where}: {data.shape[0] / rate:.0f} s, expected at most "
            f"{MAX_CLIP_SECONDS} s; cut it"
        )
    try:
        return to_mono_int16(data[...], rate=rate, sample_rate=sample_rate)
    except (ShardError, OSError) as error:
        raise ShardError(f"{where}: {error}") from None
