"""index.json and clips.npz: what a dataset folder holds and where.

Owns the two index files: reading, writing, checking. Does not open tars (reader.py),
make them (writer.py) or compare datasets (join.py).
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.classes import Classes, read_classes
from shards.files import write_atomic
from shards.schema import FORMAT_VERSION, ShardError, sha256_of

INDEX_NAME = "index.json"
TABLE_NAME = "clips.npz"
CLASSES_NAME = "classes.csv"


@dataclass(frozen=True)
class ShardRecord:
    """One tar of a dataset."""

    name: str
    """File name, the same in an audio folder and in its label folders."""
    num_clips: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Table:
    """One row per clip, in the order of shards and of members in them."""

    key: np.ndarray
    """[R] bytes (ASCII)."""
    shard: np.ndarray
    """[R] int32, position in the list of shards."""
    offset: np.ndarray
    """[R] int64, first byte of the audio or label member inside its tar."""
    size: np.ndarray
    """[R] int64, bytes of that member."""
    count: np.ndarray
    """[R] int32, samples of a clip, or chunks of a label row."""
    label_start: np.ndarray
    """[R + 1] int64; row r has label[label_start[r] : label_start[r + 1]]."""
    label: np.ndarray
    """[L] int32, class indices; empty in a label dataset."""

    def __len__(self) -> int:
        return len(self.key)

    def weak_targets(self, rows: np.ndarray, num_classes: int) -> np.ndarray:
        """Weak labels [len(rows), C] float32 in {0, 1}."""
        targets = np.zeros((len(rows), num_classes), np.float32)
        for position, row in enumerate(rows):
            targets[position, self.label[slice(*self.label_start[row : row + 2])]] = 1.0
        return targets


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
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(index.table, name) for name in _COLUMNS})
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": index.kind,
        "num_clips": len(index),
        **index.properties,
        "num_classes": len(index.classes),
        "classes_sha256": index.classes.sha256,
        "clips_sha256": sha256_of(buffer.getvalue()),
        "shards": [asdict(shard) for shard in index.shards],
    }
    meta["fingerprint"] = sha256_of(_canonical(meta))
    (meta["provenance"],) = index.provenances
    write_atomic(folder / TABLE_NAME, buffer.getvalue())
    write_atomic(folder / CLASSES_NAME, index.classes.to_csv())
    write_atomic(folder / INDEX_NAME, json.dumps(meta, indent=1) + "\n")


_COLUMNS = ("key", "shard", "offset", "size", "count", "label_start", "label")
_FIXED_FIELDS = {
    "format_version",
    "kind",
    "num_clips",
    "num_classes",
    "classes_sha256",
    "clips_sha256",
    "shards",
    "fingerprint",
    "provenance",
}


def _canonical(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta, sort_keys=True).encode()


def open_index(folder: str | Path, *, kind: str) -> Index:
    """The index of one dataset folder, checked against itself and the tars' sizes.

    Raises ShardError naming the file that is missing, damaged, or of another kind.
    """
    folder = Path(folder)
    meta = _read_meta(folder / INDEX_NAME, kind)
    classes = read_classes(folder / CLASSES_NAME)
    if classes.sha256 != meta["classes_sha256"]:
        raise ShardError(
            f"{folder / CLASSES_NAME}: not the class list the index was made with; "
            "restore the file"
        )
    shards = tuple(ShardRecord(**record) for record in meta["shards"])
    index = Index(
        kind=kind,
        classes=classes,
        shards=shards,
        paths=tuple(folder / shard.name for shard in shards),
        table=_read_table(folder / TABLE_NAME, meta),
        properties={k: v for k, v in meta.items() if k not in _FIXED_FIELDS},
        provenances=(meta["provenance"],),
        fingerprints=(meta["fingerprint"],),
    )
    for shard, path in zip(index.shards, index.paths, strict=True):
        check_size(path, shard.num_bytes)
    return index


def check_size(path: Path, num_bytes: int) -> None:
    """ShardError if a shard is absent or not ``num_bytes`` long."""
    found = path.stat().st_size if path.is_file() else None
    if found != num_bytes:
        what = "missing" if found is None else f"{found} bytes"
        raise ShardError(
            f"{path}: {what}, expected {num_bytes} bytes; the shard is incomplete, "
            "copy or make it again"
        )


def _read_meta(path: Path, kind: str) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        claimed = meta["fingerprint"]
        hidden = ("fingerprint", "provenance")
        hashed = {name: meta[name] for name in meta if name not in hidden}
        if meta["format_version"] != FORMAT_VERSION:
            raise ShardError(
                f"{path}: format version {meta['format_version']}, expected "
                f"{FORMAT_VERSION}; use the version of this program that wrote it"
            )
        if sha256_of(_canonical(hashed)) != claimed:
            raise ShardError(f"{path}: fields do not match its fingerprint; restore it")
    except FileNotFoundError:
        raise ShardError(
            f"{path}: not found; expected a finished {kind} dataset in {path.parent}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not a dataset index: {error!r}") from None
    if meta["kind"] != kind:
        raise ShardError(f"{path}: holds {meta['kind']}, expected {kind}")
    return meta


def _read_table(path: Path, meta: dict[str, Any]) -> Table:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: {error.strerror}; restore the file") from None
    if sha256_of(data) != meta["clips_sha256"]:
        raise ShardError(f"{path}: not the table that index.json names; restore it")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as columns:
            return Table(**{name: columns[name] for name in _COLUMNS})
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ShardError(f"{path}: not a clip table: {error!r}") from None
