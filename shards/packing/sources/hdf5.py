"""Waveforms in HDF5 files with a list of them, as the published PSL code keeps them.

The list is a TSV with columns ``filename``, ``labels`` (class indices separated by
``;``) and ``hdf5path``; others are ignored. In the HDF5 file a clip is one dataset of
PCM values [N] or [N, channels] that has the file's name, with or without its folders
(RicherMans/PSL, scripts/2_prepare_data.sh). A file in the form of PANNs will do, too.
"""

from __future__ import annotations

import csv
import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.audio.decode import to_mono_int16
from shards.audio.recording import MAX_CHANNELS
from shards.errors import ShardError
from shards.format.schema import MAX_CLIP_SECONDS
from shards.format.weak_labels import LabelReader
from shards.packing.names import name_for_id, without_suffix
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
    rows = _read_tsv(tsv, file)
    places = [_stored(row.container, rate).find(row) for row in rows]
    _check_apart(rows, places)
    clips, missing = _name_clips(rows, places, reader, rate, with_folder=False)
    if len({clip.key for clip in clips}) < len({clip.place for clip in clips}):
        clips, missing = _name_clips(rows, places, reader, rate, with_folder=True)
    rates = {clip.place[2] for clip in clips} - {None} or {rate}
    source_rate = rates.pop() if len(rates) == 1 else sorted(rates)
    provenance = {"tsv_sha256": file_sha256(tsv), "source_rate": source_rate}
    return Listing(str(tsv), join_labels(clips), missing, provenance, load)


@dataclass(frozen=True)
class _Row:
    """A row of the list."""

    where: str
    name: str
    labels: str
    container: str
    """The HDF5 file."""


def _read_tsv(path: str | Path, file: str | Path | None) -> list[_Row]:
    """The rows, all in ``file`` if it is given."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path}: cannot read the list of clips: {error}") from None
    wanted = ["filename", "labels"] + ["hdf5path"] * (file is None)
    for number, row in enumerate(rows):
        if any(row.get(column) is None for column in wanted):
            found = ", ".join(str(column) for column in row)
            raise ShardError(
                f"{path}: line {number + 2}: expected tab-separated columns "
                f"{', '.join(wanted)}; found {found}, or fewer fields"
            )
    if not rows:
        raise ShardError(f"{path}: no clips; expected rows below a header line")
    return [
        _Row(
            f"{path}: line {number + 2}",
            row["filename"],
            row["labels"],
            str(file or row["hdf5path"]),
        )
        for number, row in enumerate(rows)
    ]


def _check_apart(rows: Sequence[_Row], places: Sequence[str | int | None]) -> None:
    """ShardError if two names stand for one waveform; one name may have more rows."""
    first: dict[tuple[str, str | int | None], _Row] = {}
    for row, place in zip(rows, places, strict=True):
        before = first.setdefault((row.container, place), row)
        if place is not None and before.name != row.name:
            raise ShardError(
                f"{row.where}: {row.name!r} and {before.name!r} ({before.where}) are "
                f"both {place!r} in {row.container}; name each dataset as the list "
                "does, with its folder"
            )


def _name_clips(
    rows: Sequence[_Row],
    places: Sequence[str | int | None],
    reader: LabelReader,
    rate: int | None,
    *,
    with_folder: bool,
) -> tuple[list[Clip], list[list[str]]]:
    """The clips, and report lines of those that are missing."""
    clips, missing = [], []
    for row, place in zip(rows, places, strict=True):
        stem = _stem(row.name, in_rows=isinstance(place, int), with_folder=with_folder)
        place_of_clip = (row.container, place, _stored(row.container, rate).rate)
        clip = Clip.named(
            stem, row.labels, place_of_clip, reader=reader, where=row.where
        )
        if place is None:
            what = f"{row.container} has no dataset or audio_name {row.name!r}"
            missing.append([clip.key, "missing", what])
        else:
            clips.append(clip)
    return clips, missing


def _stem(name: str, *, in_rows: bool, with_folder: bool) -> str:
    """What tells a clip's id; names are told apart by their folders where they must."""
    if in_rows and not with_folder:
        return hdf5_rows.row_stem(name)
    return name_for_id(without_suffix(name.lstrip("/")), with_folder=with_folder)


@dataclass(frozen=True)
class _Stored:
    """What an HDF5 file holds."""

    path: str
    names: dict[str, str | int]
    """Where each clip is: a dataset, or a row of a file in the form of PANNs."""
    rate: int | None
    """Of the waveforms, Hz; None where each has its own."""
    like: dict[str, list[str]]
    """The names by their last part in normal Unicode form, which macOS changes."""

    def find(self, row: _Row) -> str | int | None:
        """Where the samples of a row are, by its name with or without its folders.

        None if they are not in this file. Raises ShardError if more than one fits.
        """
        name = row.name.lstrip("/")
        if name in self.names:
            return self.names[name]
        same = self.like.get(_last_part(name), [])
        short = [other for other in same if "/" not in other or "/" not in name]
        normal = unicodedata.normalize("NFC", name)
        fits = [n for n in same if unicodedata.normalize("NFC", n) == normal] or short
        if len({self.names[fit] for fit in fits}) > 1:
            raise ShardError(
                f"{row.where}: {name!r} may be {fits[0]!r} or {fits[1]!r} of "
                f"{self.path}; write the one that is meant, with its folder"
            )
        return self.names[fits[0]] if fits else None


def _last_part(name: str) -> str:
    return unicodedata.normalize("NFC", name.rpartition("/")[2])


@functools.lru_cache(maxsize=64)
def _stored(path: str, rate: int | None) -> _Stored:
    """What is in a file, and at which rate in Hz."""
    names: dict[str, str | int] = {}
    if hdf5_rows.is_in_rows(path):
        rows = hdf5_rows.read_rows(path, rate)
        names = {name: row for row, name in enumerate(rows.names) if name}
        found_rate = rows.rate
    else:
        try:
            open_hdf5(path).visit(lambda name: names.update({name: name}))
        except READ_ERRORS as error:
            raise ShardError(f"{path}: damaged: {error}") from None
        found_rate = rate or DEFAULT_RATE
    like: dict[str, list[str]] = {}
    for name in names:
        like.setdefault(_last_part(name), []).append(name)
    return _Stored(path, names, found_rate, like)


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
