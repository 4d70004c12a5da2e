"""index.json and clips.npz: what a dataset folder holds and where.

Owns the two index files: reading, writing, checking, and seeing several folders as
one. Does not open tars (reader.py) and does not make them (writer.py).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
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
        shard = int(self.table.shard[row])
        row_in_shard = row - int(np.searchsorted(self.table.shard, shard))
        return f"{self.paths[shard]}: key {self.key(row)!r} at row {row_in_shard}"


def write_index(
    folder: Path,
    *,
    kind: str,
    classes: Classes,
    shards: Sequence[ShardRecord],
    table: Table,
    properties: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Publish a dataset: clips.npz and classes.csv first, index.json last.

    Nothing in them depends on the time or the machine, so the same input gives the
    same bytes. Raises ShardError, and writes nothing, if a key stands twice.
    """
    check_unique_keys(
        Index(
            kind=kind,
            classes=classes,
            shards=tuple(shards),
            paths=tuple(folder / shard.name for shard in shards),
            table=table,
            properties=properties,
            provenances=(provenance,),
            fingerprints=(),
        )
    )
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(table, name) for name in _COLUMNS})
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "num_clips": len(table),
        **properties,
        "num_classes": len(classes),
        "classes_sha256": classes.sha256,
        "clips_sha256": sha256_of(buffer.getvalue()),
        "shards": [asdict(shard) for shard in shards],
    }
    meta["fingerprint"] = sha256_of(_canonical(meta))
    meta["provenance"] = provenance
    write_atomic(folder / TABLE_NAME, buffer.getvalue())
    write_atomic(folder / CLASSES_NAME, classes.to_csv())
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


def open_indexes(folders: Sequence[str | Path], *, kind: str) -> Index:
    """Several dataset folders as one, in the order given.

    Raises ShardError if they differ in class list, codec, rate or chunking, or if a
    key stands in two of them.
    """
    if not folders:
        raise ShardError(f"no {kind} folder given; name at least one")
    indexes = [open_index(folder, kind=kind) for folder in folders]
    return indexes[0] if len(indexes) == 1 else _concatenate(indexes)


def _concatenate(indexes: list[Index]) -> Index:
    first = indexes[0]
    for other in indexes[1:]:
        if (
            other.classes.mids != first.classes.mids
            or other.properties != first.properties
        ):
            raise ShardError(
                f"{other.where}: classes or {other.properties} differ from "
                f"{first.where} ({first.properties}); pack them alike"
            )
    table = concatenate_tables(
        [index.table for index in indexes], [len(index.shards) for index in indexes]
    )
    index = Index(
        kind=first.kind,
        classes=first.classes,
        shards=sum((index.shards for index in indexes), ()),
        paths=sum((index.paths for index in indexes), ()),
        table=table,
        properties=first.properties,
        provenances=sum((index.provenances for index in indexes), ()),
        fingerprints=sum((index.fingerprints for index in indexes), ()),
    )
    check_unique_keys(index)
    return index


def concatenate_tables(tables: list[Table], num_shards: list[int]) -> Table:
    """Tables in a row; each one's shard numbers move up by the shards before it."""
    shard_base = np.cumsum([0, *num_shards[:-1]])
    label_base = np.cumsum([0, *[len(table.label) for table in tables[:-1]]])
    starts = [t.label_start[:-1] + b for t, b in zip(tables, label_base, strict=True)]
    total = sum(len(table.label) for table in tables)
    return Table(
        key=np.concatenate([table.key for table in tables]),
        shard=np.concatenate(
            [t.shard + base for t, base in zip(tables, shard_base, strict=True)]
        ).astype(np.int32),
        offset=np.concatenate([table.offset for table in tables]),
        size=np.concatenate([table.size for table in tables]),
        count=np.concatenate([table.count for table in tables]),
        label_start=np.concatenate([*starts, [total]]).astype(np.int64),
        label=np.concatenate([table.label for table in tables]),
    )


def check_unique_keys(index: Index) -> None:
    """ShardError naming both places if a key stands twice."""
    order = np.argsort(index.table.key, kind="stable")
    same = np.flatnonzero(index.table.key[order[1:]] == index.table.key[order[:-1]])
    if len(same):
        one, two = order[same[0]], order[same[0] + 1]
        raise ShardError(
            f"{index.place(int(two))} stands already in {index.place(int(one))}; "
            "keep one of them"
        )


def check_join(audio: Index, labels: Index) -> None:
    """ShardError unless ``labels`` has exactly the rows of ``audio``, in its order.

    Names the first missing, extra or misplaced key.
    """
    both = min(len(audio), len(labels))
    differ = np.flatnonzero(audio.table.key[:both] != labels.table.key[:both])
    if len(differ):
        row = int(differ[0])
        raise ShardError(
            f"{labels.place(row)}, expected {audio.key(row)!r} from {audio.where}; "
            "these labels were made for other audio, relabel it"
        )
    if len(audio) > len(labels):
        raise ShardError(
            f"{labels.where}: no labels for {audio.key(len(labels))!r} and "
            f"{len(audio) - len(labels) - 1} more clips of {audio.where}; relabel it"
        )
    if len(labels) > len(audio):
        raise ShardError(
            f"{labels.place(len(audio))} is not in {audio.where}; relabel it"
        )
    if labels.classes.mids != audio.classes.mids:
        raise ShardError(
            f"{labels.where}: labels have another class list than {audio.where}; "
            "relabel it with a teacher of these classes"
        )
    made_for = tuple(str(p.get("audio_fingerprint")) for p in labels.provenances)
    if made_for != audio.fingerprints:
        raise ShardError(
            f"{labels.where}: made for audio {made_for}, but {audio.where} is "
            f"{audio.fingerprints} (same keys, other content); relabel it"
        )
