"""Parquet files with an audio column, as Hugging Face's datasets library writes them.

The audio column is a struct with the encoded file's ``bytes`` (and its ``path``), or
the bytes themselves. Rows can only be read a row group at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.audio.decode import load_clip
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.packing.sources.listing import Clip, Listing, import_optional

_GROUPS_KEPT = 10
"""Row groups in memory at once: a little more than packing shuffles within."""


def list_clips(
    places: Sequence[str | Path],
    classes: Classes,
    *,
    audio_column: str,
    label_column: str,
    id_column: str | None,
) -> Listing:
    """The clips of all Parquet files in ``places`` (files, or folders of them).

    The clip's id is ``id_column``, or else the name in the audio column's ``path``.
    Raises ShardError naming file and row of what is wrong.
    """
    clips, groups, num_groups = [], [], 0
    files = _find_files(places)
    for path in files:
        file = _open(str(path))
        _check_columns(path, file, audio_column, label_column, id_column)
        for group in range(file.num_row_groups):
            rows = _read_names(file, group, audio_column, label_column, id_column)
            for row, (name, value) in enumerate(rows):
                where = f"{path}: row {row} of row group {group}"
                if not name:
                    raise ShardError(
                        f"{where}: no id; name the column that has it by --id-column"
                    )
                place = (str(path), group, row, audio_column)
                clips.append(
                    Clip.named(name, value, place, classes=classes, where=where)
                )
                groups.append(num_groups)
            num_groups += 1
    provenance = {
        "files": [path.name for path in files],
        "file_bytes": sum(path.stat().st_size for path in files),
        "columns": [audio_column, label_column, id_column],
    }
    where = ", ".join(map(str, places))
    return Listing(where, clips, [], provenance, load, np.array(groups))


def _find_files(places: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for place in map(Path, places):
        found = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
        if not found or not found[0].is_file():
            raise ShardError(f"{place}: no .parquet file there")
        files += found
    return files


@functools.lru_cache(maxsize=64)
def _open(path: str) -> Any:
    pq = import_optional("pyarrow.parquet", extra="parquet")
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: not a readable Parquet file: {error}") from None


def _check_columns(path: Path, file: Any, *columns: str | None) -> None:
    found = file.schema_arrow.names
    for column in columns:
        if column is not None and column not in found:
            raise ShardError(
                f"{path}: no column {column!r} among {', '.join(found)}; name it by "
                "--audio-column, --label-column or --id-column"
            )


def _read_names(
    file: Any, group: int, audio: str, label: str, id_column: str | None
) -> Iterator[tuple[str, Any]]:
    """Name and label value of each row of a row group; the audio is not read."""
    name_column = id_column or f"{audio}.path"
    table = file.read_row_group(group, columns=[name_column, label])
    labels = table.column(label).to_pylist()
    if id_column is not None:
        values = table.column(id_column).to_pylist()
        names = ["" if value is None else str(value) for value in values]
    elif audio in table.column_names:
        paths = [
            (value or {}).get("path") or "" for value in table.column(audio).to_pylist()
        ]
        names = [Path(path).stem for path in paths]
    else:
        names = [""] * len(labels)
    return zip(names, labels, strict=True)


@functools.lru_cache(maxsize=_GROUPS_KEPT)
def _read_audio(path: str, group: int, column: str) -> Any:
    return _open(path).read_row_group(group, columns=[column]).column(column)


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a clip."""
    path, group, row, column = clip.place
    value = _read_audio(path, group, column)[row].as_py()
    data = value["bytes"] if isinstance(value, dict) else value
    where = f"{path}: row {row} of row group {group}"
    if not isinstance(data, bytes):
        raise ShardError(
            f"{where}: no encoded audio in column {column!r}; embed the files first"
        )
    try:
        return load_clip(data, sample_rate=sample_rate)
    except ShardError as error:
        raise ShardError(f"{where}: {error}") from None
