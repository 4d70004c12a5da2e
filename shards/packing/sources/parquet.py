"""Parquet files with an audio column, as Hugging Face's datasets library writes them.

The audio column is a struct with the encoded file's ``bytes`` (and its ``path``), or
the bytes themselves. Rows can only be read a row group at a time.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.audio.decode import load_clip
from shards.errors import ShardError
from shards.format.weak_labels import LabelError, LabelReader, LabelsAre
from shards.packing.names import is_passed_over, key_of, name_for_id
from shards.packing.sources.listing import Clip, Listing, import_optional

_GROUPS_KEPT = 10
"""Row groups in memory at once: a little more than packing shuffles within."""


def list_clips(
    places: Sequence[str | Path],
    reader: LabelReader,
    *,
    audio_column: str,
    label_column: str,
    id_column: str | None,
) -> Listing:
    """The clips of all Parquet files in ``places`` (files, or folders of them).

    The clip's id is ``id_column``, or else the name in the audio column's ``path``,
    with its folder if two differ in nothing else.

    Raises ShardError naming file and row of what is wrong.
    """
    files = _find_files(places)
    for path in files:
        _check_columns(path, audio_column, label_column, id_column)
    columns = _Columns(audio_column, label_column, id_column)
    for with_folder in (False, True):
        clips: list[Clip] = []
        groups: list[int] = []
        rejected: list[list[str]] = []
        for number, (path, group) in enumerate(_row_groups(files)):
            found = _list_group(path, group, columns, reader, rejected, with_folder)
            clips += found
            groups += [number] * len(found)
        if len({clip.key for clip in clips}) == len(clips):
            break
    provenance = {
        "files": [path.name for path in files],
        "file_bytes": sum(path.stat().st_size for path in files),
        "columns": [audio_column, label_column, id_column],
    }
    return Listing(
        where=", ".join(map(str, places)),
        clips=clips,
        missing=[],
        provenance=provenance,
        load=load,
        groups=np.array(groups),
        rejected=rejected,
        describe=_describe,
    )


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that are read."""

    audio: str
    label: str
    id: str | None
    """None for the path in the audio column."""


def _row_groups(files: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    for path in files:
        for group in range(_open(str(path)).num_row_groups):
            yield path, group


def _list_group(
    path: Path,
    group: int,
    columns: _Columns,
    reader: LabelReader,
    rejected: list[list[str]],
    with_folder: bool,
) -> list[Clip]:
    """The clips of a row group; a row whose labels cannot be read is rejected."""
    clips = []
    rows = _read_names(path, group, columns, reader.labels_are)
    for row, (name, value) in enumerate(rows):
        where = f"{path}: row {row} of row group {group}"
        if not name:
            raise ShardError(
                f"{where}: no id; name the column that has it by --id-column"
            )
        if columns.id is None:
            name = name_for_id(name, with_folder=with_folder)
        place = (str(path), group, row, columns.audio)
        try:
            clips.append(Clip.named(name, value, place, reader=reader, where=where))
        except LabelError as error:
            raise _with_hint(error, path, columns.label) from None
        except ShardError as error:
            rejected.append([key_of(name), "rejected", str(error)])
    return clips


def _find_files(places: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for place in map(Path, places):
        found = [place]
        if place.is_dir():
            below = sorted(place.rglob("*.parquet"))
            found = [p for p in below if not is_passed_over(str(p.relative_to(place)))]
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


def _check_columns(path: Path, *columns: str | None) -> None:
    found = _open(str(path)).schema_arrow.names
    for column in columns:
        if column is not None and column not in found:
            raise ShardError(
                f"{path}: no column {column!r} among {', '.join(found)}; name it by "
                "--audio-column, --label-column or --id-column"
            )


def _read_names(
    path: Path, group: int, columns: _Columns, labels_are: LabelsAre | None
) -> Iterator[tuple[str, Any]]:
    """Name and label value of each row of a row group; the audio is not read.

    Names from paths have their folders and no suffix.
    """
    name_column = columns.id or f"{columns.audio}.path"
    table = _open(str(path)).read_row_group(group, columns=[name_column, columns.label])
    try:
        labels = _read_labels(table, columns.label, labels_are)
        names = _names(table, columns, len(labels))
    except UnicodeDecodeError as error:
        raise ShardError(
            f"{path}: row group {group}: text is not UTF-8: {error}"
        ) from None
    return zip(names, labels, strict=True)


def _names(table: Any, columns: _Columns, num_rows: int) -> list[str]:
    if columns.id is not None:
        values = table.column(columns.id).to_pylist()
        return ["" if value is None else str(value) for value in values]
    if columns.audio not in table.column_names:
        return [""] * num_rows
    values = table.column(columns.audio).to_pylist()
    return [_without_suffix((value or {}).get("path") or "") for value in values]


def _without_suffix(path: str) -> str:
    folder, stem = Path(path).parent.as_posix(), Path(path).stem
    return stem if folder in (".", "") or not stem else f"{folder}/{stem}"


def _read_labels(table: Any, column: str, labels_are: LabelsAre | None) -> list[Any]:
    """Label values of each row.

    Where the file says what its class numbers mean, they become names, unless they are
    said to be indices of the class list, or 0/1 vectors.
    """
    values = table.column(column).to_pylist()
    if labels_are in ("indices", "multi-hot"):
        return values
    names = _class_names(table.schema, column)
    return [_to_names(value, names) for value in values] if names else values


def _class_names(schema: Any, column: str) -> list[str] | None:
    """The names that the datasets library stores for the numbers of ``column``."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        feature = stored["info"]["features"][column]
        names = feature.get("feature", feature)["names"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    is_text = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_text and names else None


def _with_hint(error: LabelError, path: Path, column: str) -> LabelError:
    """``error``, with what decides if the file itself names the classes."""
    names = _class_names(_open(str(path)).schema_arrow, column)
    if not names:
        return error
    return LabelError(
        f"{error} (the file says that its numbers mean {', '.join(names)[:200]!r}; if "
        "they are indices of the class list, give --labels-are indices)"
    )


def _to_names(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_to_names(item, names) for item in value]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return names[value] if is_number and 0 <= value < len(names) else value


@functools.lru_cache(maxsize=_GROUPS_KEPT)
def _read_audio(path: str, group: int, column: str) -> Any:
    return _open(path).read_row_group(group, columns=[column]).column(column)


def _describe(clip: Clip) -> str:
    path, group, row, _ = clip.place
    return f"{path}: row {row} of row group {group}"


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a clip."""
    path, group, row, column = clip.place
    value = _read_audio(path, group, column)[row].as_py()
    data = value["bytes"] if isinstance(value, dict) else value
    where = _describe(clip)
    if not isinstance(data, bytes):
        raise ShardError(
            f"{where}: no encoded audio in column {column!r}; embed the files first"
        )
    try:
        return load_clip(data, sample_rate=sample_rate)
    except ShardError as error:
        raise ShardError(f"{where}: {error}") from None
