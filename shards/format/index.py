"""index.json and clips.npz: what a dataset folder holds and where.

Owns the two index files: reading, writing, checking. Does not open tars (reader.py),
make them (writer.py) or compare datasets (join.py).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ShardError, naming
from shards.format.classes import MAX_CLASS_LIST_BYTES, Classes, parse_classes
from shards.format.label_codec import LabelForm
from shards.format.meta import (
    MAX_INDEX_BYTES,
    ShardRecord,
    make_meta,
    parse_meta,
    properties_of,
)
from shards.format.schema import MAX_CLIP_SECONDS
from shards.format.table import MAX_TABLE_BYTES, Table, check_table, read_table
from shards.remote.places import (
    RetryPolicy,
    check_place,
    is_url,
    join_place,
    read_url,
    resolve_location,
)
from shards.system.files import plain_size, read_plain, sha256_of, write_atomic

INDEX_NAME = "index.json"
TABLE_NAME = "clips.npz"
CLASSES_NAME = "classes.csv"
MAX_NAMED = 20
"""Bad shards that open_index names; verify.py names all."""


@dataclass(frozen=True)
class Index:
    """A dataset: one folder, or several of the same kind, one after another."""

    kind: str
    """``audio`` or ``labels``."""
    classes: Classes
    shards: tuple[ShardRecord, ...]
    places: tuple[str, ...]
    """Where each shard lies: a path, or a URL."""
    table: Table
    properties: dict[str, Any]
    """Audio: codec, sample_rate. Labels: sample_rate, chunk_samples, hop_samples, and
    what psl/data/labels.py adds for other than dense labels of one view."""
    provenances: tuple[dict[str, Any], ...]
    """What made each folder, from what."""
    fingerprints: tuple[str, ...]
    """Of each folder, a hash of everything that decides what a reader gets."""
    location: str | None = None
    """Where the tars of one folder lie if not next to index.json: an absolute folder,
    one relative to index.json, or a URL. Not in the fingerprint."""

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
        return ", ".join(dict.fromkeys(p.rpartition("/")[0] for p in self.places))

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where each shard lies, of a dataset that has none at a URL."""
        assert not any(map(is_url, self.places))
        return tuple(map(Path, self.places))

    def key(self, row: int) -> str:
        """The key of one row."""
        return bytes(self.table.key[row]).decode()

    def place(self, row: int) -> str:
        """Where one row lies, for messages: ``folder/000017.tar: key 'x' at row 3``."""
        shard = self.table.shard[row]  # of the column's type, else all is converted
        row_in_shard = row - int(np.searchsorted(self.table.shard, shard))
        return f"{self.places[shard]}: key {self.key(row)!r} at row {row_in_shard}"


def with_labels(index: Index, labels: np.ndarray, mark: str) -> Index:
    """The same audio with other weak labels.

    ``labels`` [L] has ``row * C + class`` of each, ascending, none twice. The
    fingerprint changes by ``mark``, as what a reader gets does.
    """
    row, label = np.divmod(labels.astype(np.int64), len(index.classes))
    counts = np.bincount(row, minlength=len(index))
    table = replace(
        index.table,
        label_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        label=label.astype(np.int32),
    )
    prints = tuple(sha256_of((old + mark).encode()) for old in index.fingerprints)
    return replace(index, table=table, fingerprints=prints)


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
        location=index.location,
    )
    write_atomic(folder / TABLE_NAME, table)
    write_atomic(folder / CLASSES_NAME, index.classes.to_csv())
    write_atomic(folder / INDEX_NAME, json.dumps(meta, indent=1) + "\n")


def open_index(
    folder: str | Path, *, kind: str | None, retry: RetryPolicy | None = None
) -> Index:
    """The index of one dataset, checked against itself and the sizes of local tars.

    ``folder`` may be a URL; ``kind`` None takes a dataset of any kind. Raises
    ShardError naming the file that is missing, damaged, or of another kind, JobError
    if a server does not answer well within ``retry``.
    """
    index = read_index(folder, kind=kind, retry=retry)
    problems = []
    for shard, place in zip(index.shards, index.places, strict=True):
        if not is_url(place):  # remote ones are checked when they are fetched
            try:
                check_size(Path(place), shard.num_bytes)
            except ShardError as error:
                problems.append((shard.name, error))
    if len(problems) > 1:
        names = ", ".join(name for name, _ in problems[1:MAX_NAMED])
        more = "" if len(problems) <= MAX_NAMED else " and more"
        raise ShardError(f"{problems[0][1]}; the same with {names}{more}")
    if problems:
        raise problems[0][1]
    return index


_MADE_BY = {
    "audio": "python -m shards.pack makes one of audio files",
    "labels": "python -m psl.label makes one",
    None: "check the path",
}


def read_index(
    folder: str | Path, *, kind: str | None, retry: RetryPolicy | None = None
) -> Index:
    """As open_index, without looking at the tars."""
    home, retry = check_place(folder), retry or RetryPolicy()
    place = join_place(home, INDEX_NAME)
    if not is_url(place) and not Path(place).exists():
        raise ShardError(
            f"{place}: not found; expected a finished {kind or 'audio or label'} "
            f"dataset in {home}; {_MADE_BY[kind]}"
        )
    meta = parse_meta(_read(place, MAX_INDEX_BYTES, retry), where=place)
    if kind is not None and meta["kind"] != kind:
        raise ShardError(f"{place}: holds {meta['kind']}, expected {kind}")
    shards = tuple(ShardRecord(**record) for record in meta["shards"])
    tars = _find_tars(home, meta.get("location"), where=place)
    return Index(
        kind=meta["kind"],
        classes=_read_classes(join_place(home, CLASSES_NAME), meta, retry),
        shards=shards,
        places=tuple(join_place(tars, shard.name) for shard in shards),
        table=_read_table(join_place(home, TABLE_NAME), meta, shards, retry),
        properties=properties_of(meta),
        provenances=(meta["provenance"],),
        fingerprints=(meta["fingerprint"],),
        location=meta.get("location"),
    )


def _find_tars(home: str, location: str | None, *, where: str) -> str:
    """The folder or URL of the tars of a dataset whose index.json is in ``home``."""
    if location is None:
        return home
    with naming(where):
        return resolve_location(home, location)


def _read(place: str, max_bytes: int, retry: RetryPolicy) -> bytes:
    """A whole file of the index; ShardError if it cannot be read."""
    if is_url(place):
        return read_url(place, max_bytes=max_bytes, retry=retry)
    return read_plain(*os.path.split(place), max_bytes=max_bytes)


def check_size(path: Path, num_bytes: int) -> None:
    """ShardError if a shard is absent, elsewhere or not ``num_bytes`` long."""
    found = plain_size(path.parent, path.name)
    if found != num_bytes:
        what = "missing" if found is None else f"{found} bytes"
        raise ShardError(
            f"{path}: {what}, expected {num_bytes} bytes; the shard is incomplete, "
            "copy or make it again"
        )


def _read_classes(path: str, meta: dict[str, Any], retry: RetryPolicy) -> Classes:
    classes = parse_classes(_read(path, MAX_CLASS_LIST_BYTES, retry), path)
    if (classes.sha256, len(classes)) != (meta["classes_sha256"], meta["num_classes"]):
        raise ShardError(
            f"{path}: not the class list the index was made with; restore the file"
        )
    return classes


def _read_table(
    path: str,
    meta: dict[str, Any],
    shards: tuple[ShardRecord, ...],
    retry: RetryPolicy,
) -> Table:
    data = _read(path, MAX_TABLE_BYTES, retry)
    if sha256_of(data) != meta["clips_sha256"]:
        raise ShardError(f"{path}: not the table that index.json names; restore it")
    table = read_table(data, where=path)
    is_audio = meta["kind"] == "audio"
    check_table(
        table,
        shard_clips=np.array([shard.num_clips for shard in shards], np.int64),
        shard_bytes=np.array([shard.num_bytes for shard in shards], np.int64),
        num_classes=meta["num_classes"] if is_audio else 0,
        min_count=1 if is_audio else 0,  # 0 for a clip that could not be labelled
        max_count=_max_count(meta),
        least_bytes=_least_bytes(meta),
        where=path,
    )
    return table


def _max_count(meta: dict[str, Any]) -> int:
    """Samples, or chunks, that a clip may have."""
    if meta["kind"] == "audio":
        return round(MAX_CLIP_SECONDS * meta["sample_rate"])
    return LabelForm.of(meta).max_chunks(meta["num_classes"])


def _least_bytes(meta: dict[str, Any]) -> int:
    """Bytes that each sample, or chunk, takes at least."""
    if meta["kind"] == "labels":
        return LabelForm.of(meta).bytes_per_chunk(meta["num_classes"])
    return 2 if meta["codec"] == "wav" else 0
