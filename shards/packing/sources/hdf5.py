"""Waveforms in HDF5 files with a list of them, as the published PSL code keeps them.

The list is a TSV with columns ``filename``, ``labels`` (class indices separated by
``;``) and ``hdf5path``; others are ignored. In the HDF5 file a clip is one dataset of
PCM values [N] or [N, channels] that has the file's name, with or without its folders
(RicherMans/PSL, scripts/2_prepare_data.sh). A file in the form of PANNs will do, too.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import numpy as np

from shards.audio.decode import to_mono_int16
from shards.audio.recording import MAX_CHANNELS
from shards.errors import ShardError
from shards.format.schema import MAX_CLIP_SECONDS
from shards.format.weak_labels import LabelReader
from shards.packing.sources import hdf5_rows
from shards.packing.sources.hdf5_file import READ_ERRORS, find_dataset, open_hdf5
from shards.packing.sources.listing import Clip, Listing, join_labels
from shards.system.files import file_sha256

DEFAULT_RATE = 16000
"""Hz of the published code's waveforms, of which its files say nothing."""


def list_clips(
    tsv: str | Path, reader: LabelReader, *, file: str | Path | None, rate: int | None
) -> Listing:
    """The clips of ``tsv``, whose samples are at ``rate`` Hz.

    Without ``rate`` it is that of the published code, or what a file in the form of
    PANNs says. ``file`` is the HDF5 file of all clips, if the column hdf5path is absent
    or out of date. Raises ShardError naming file and line of what is wrong; a clip that
    is not in its HDF5 file is missing.
    """
    clips, missing = [], []
    for where, row in _read_tsv(tsv, needs_file=file is None):
        name, container = row["filename"], str(file or row["hdf5path"])
        present, known = _stored(container, rate)
        stored = next(
            (present[n] for n in (name.lstrip("/"), Path(name).name) if n in present),
            None,
        )
        clip = Clip.named(
            hdf5_rows.row_stem(name) if isinstance(stored, int) else Path(name).stem,
            row["labels"],
            (container, stored, known),
            reader=reader,
            where=where,
        )
        if stored is None:
            what = f"{container} has no dataset or audio_name {name!r}"
            missing.append([clip.key, "missing", what])
        else:
            clips.append(clip)
    rates = {clip.place[2] for clip in clips} - {None} or {rate}
    source_rate = rates.pop() if len(rates) == 1 else sorted(rates)
    provenance = {"tsv_sha256": file_sha256(tsv), "source_rate": source_rate}
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
def _stored(path: str, rate: int | None) -> tuple[dict[str, str | int], int | None]:
    """Where each clip of a file is stored, by its name, and the rate in Hz.

    That is a dataset, or a row of a file in the form of PANNs.
    """
    if hdf5_rows.is_in_rows(path):
        rows = hdf5_rows.read_rows(path, rate)
        by_name = {name: row for row, name in enumerate(rows.names) if name}
        return {**by_name, **{Path(n).name: r for n, r in by_name.items()}}, rows.rate
    names: dict[str, str | int] = {}
    try:
        open_hdf5(path).visit(lambda name: names.update({name: name}))
    except READ_ERRORS as error:
        raise ShardError(f"{path}: damaged: {error}") from None
    return names, rate or DEFAULT_RATE


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a clip."""
    path, name, rate = clip.place
    if isinstance(name, int):
        return hdf5_rows.load(clip, sample_rate)
    where, data = f"{path}: dataset {name!r}", find_dataset(path, name)
    if data is None or data.dtype.kind not in "iuf" or not data.size:
        raise ShardError(f"{where}: no PCM values; remove it from the list")
    if data.dtype.itemsize == 1:  # 8-bit PCM in HDF5 is unheard of, files are not
        raise ShardError(
            f"{where}: bytes, which may be an encoded file; expected int16 or float PCM"
        )
    if data.ndim > 2 or data.size > MAX_CHANNELS * data.shape[0]:
        raise ShardError(
            f"{where}: shape {list(data.shape)}, expected [N] or [N, channels] with at "
            f"most {MAX_CHANNELS} channels"
        )
    if data.shape[0] > MAX_CLIP_SECONDS * rate:
        raise ShardError(
            f"{where}: {data.shape[0] / rate:.0f} s, and a clip may have "
            f"{MAX_CLIP_SECONDS:g} s; cut it"
        )
    try:
        return to_mono_int16(data[...], rate=rate, sample_rate=sample_rate)
    except (ShardError, *READ_ERRORS) as error:
        raise ShardError(f"{where}: {error}") from None
