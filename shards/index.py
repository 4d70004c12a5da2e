"""index.json and clips.npz: what a dataset folder holds and where.

Owns the two index files: reading, writing, checking. Does not open tars (reader.py),
make them (writer.py) or compare datasets (join.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.classes import Classes, read_classes
from shards.files import read_bounded, write_atomic
from shards.meta import (
    MAX_INDEX_BYTES,
    ShardRecord,
    make_meta,
    parse_meta,
    properties_of,
)
from shards.schema import MAX_CLIP_SECONDS, ShardError, sha256_of
from shards.table import MAX_TABLE_BYTES, Table, check_table, read_table

INDEX_NAME = "index.json"
TABLE_NAME = "clips.npz"
CLASSES_NAME = "classes.csv"


@dataclass(frozen=True)
class Index:
    """A dataset: one folder, or several of the same kind in a row."""

    kind: str
    """``audio`` or ``labels``."""
    classes: Classes
    shards: tuple[ShardRecord, ...]
    paths: tuple[Path, ...]
    """Where each shard lies."""
    table: Table
    properties: dict[str, Any]
    """Audio: codec, sample_rate. Labels: chunk_seconds, hop_seconds."""
    provenances: tuple[dict[str, Any], ...]
    """What made each folder, from what."""
    fingerprints: tuple[str, ...]
    """Of each folder, a hash of everything that decides what a reader gets."""

    location: str | None = None
    """Of one folder, where its tars lie when not beside its index."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def fingerprint(self) -> str:
        """One hash for all folders."""
        if len(self.fingerprints) == 1:
            return self.fingerprints[0]
        return sha256_of("".join(self.fingerprints).encode())

    @property
    def where(self) -> str:
        """The folders, for messages."""
        return ", ".join(dict.fromkeys(str(path.parent) for path in self.paths))

    def key(self, row: int) -> str:
        """The key of one row."""
        return bytes(self.table.key[row]).decode()

    def place(self, row: int) -> str:
        """Where one row lies, for messages: ``folder/000017.tar: key 'x' at row 3``."""
        shard = self.table.shard[row]  # of the column's type, else all is converted
        row_in_shard = row - int(np.searchsorted(self.table.shard, shard))
        return f"{self.paths[shard]}: key {self.key(row)!r} at row {row_in_shard}"


def write_index(folder: Path, index: Index) -> None:
    """Publish a dataset: clips.npz and classes.csv first, index.json last.

    Nothing in them depends on the time or the machine, so the same input gives the
    same bytes. The fingerprint is made here.
    """
    table = index.table.to_bytes()
    (provenance,) = index.provenances
    meta = make_meta(
        kind=index.kind,
        num_clips=len(index),
        num_classes=len(index.classes),
        classes_sha256=index.classes.sha256,
        clips_sha256=sha256_of(table),
        shards=index.shards,
        properties=index.properties,
        provenance=provenance,
    )
    write_atomic(folder / TABLE_NAME, table)
    write_atomic(folder / CLASSES_NAME, index.classes.to_csv())
    write_atomic(folder / INDEX_NAME, json.dumps(meta, indent=1) + "\n")


def open_index(folder: str | Path, *, kind: str | None) -> Index:
    """The index of one dataset folder, checked against itself and the tars' sizes.

    ``kind`` None takes a dataset of any kind. Raises ShardError naming the file that is
    missing, damaged, or of another kind.
    """
    index = read_index(folder, kind=kind)
    for shard, path in zip(index.shards, index.paths, strict=True):
        check_size(path, shard.num_bytes)
    return index


def read_index(folder: str | Path, *, kind: str | None) -> Index:
    """As open_index, without looking at the tars."""
    folder = Path(folder)
    path = folder / INDEX_NAME
    if not path.exists():
        raise ShardError(
            f"{path}: not found; expected a finished {kind or 'audio or label'} "
            f"dataset in {path.parent}"
        )
    meta = parse_meta(read_bounded(path, MAX_INDEX_BYTES), where=str(path))
    if kind is not None and meta["kind"] != kind:
        raise ShardError(f"{path}: holds {meta['kind']}, expected {kind}")
    shards = tuple(ShardRecord(**record) for record in meta["shards"])
    return Index(
        kind=meta["kind"],
        classes=_read_classes(folder / CLASSES_NAME, meta),
        shards=shards,
        paths=tuple(folder / shard.name for shard in shards),
        table=_read_table(folder / TABLE_NAME, meta, shards),
        properties=properties_of(meta),
        provenances=(meta["provenance"],),
        fingerprints=(meta["fingerprint"],),
    )


def check_size(path: Path, num_bytes: int) -> None:
    """ShardError if a shard is absent or not ``num_bytes`` long."""
    found = path.stat().st_size if path.is_file() else None
    if found != num_bytes:
        what = "missing" if found is None else f"{found} bytes"
        raise ShardError(
            f"{path}: {what}, expected {num_bytes} bytes; the shard is incomplete, "
            "copy or make it again"
        )


def _read_classes(path: Path, meta: dict[str, Any]) -> Classes:
    classes = read_classes(path)
    if (classes.sha256, len(classes)) != (meta["classes_sha256"], meta["num_classes"]):
        raise ShardError(
            f"{path}: not the class list the index was made with; restore the file"
        )
    return classes


def _read_table(
    path: Path, meta: dict[str, Any], shards: tuple[ShardRecord, ...]
) -> Table:
    data = read_bounded(path, MAX_TABLE_BYTES)
    if sha256_of(data) != meta["clips_sha256"]:
        raise ShardError(f"{path}: not the table that index.json names; restore it")
    table = read_table(data, where=str(path))
    is_audio = meta["kind"] == "audio"
    check_table(
        table,
        shard_clips=np.array([shard.num_clips for shard in shards], np.int64),
        shard_bytes=np.array([shard.num_bytes for shard in shards], np.int64),
        num_classes=meta["num_classes"] if is_audio else 0,
        max_count=_max_count(meta),
        least_bytes=_least_bytes(meta),
        where=str(path),
    )
    return table


def _max_count(meta: dict[str, Any]) -> int:
    """Samples, or chunks, that a clip may have."""
    if meta["kind"] == "audio":
        return round(MAX_CLIP_SECONDS * meta["sample_rate"])
    return np.iinfo(np.int32).max  # the size of its member bounds it


def _least_bytes(meta: dict[str, Any]) -> int:
    """Bytes that each sample, or chunk, takes at least."""
    if meta["kind"] == "labels":
        return 2 * meta["num_classes"]
    return 2 if meta["codec"] == "wav" else 0
