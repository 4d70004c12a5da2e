"""Making a dataset folder, one whole shard at a time.

Owns deterministic tars and the resumable state next to them: every finished shard
leaves a small record in ``.parts/``; when all are there, the index is published and
the records go. A job killed on any line runs again and does only what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import INDEX_NAME, Index, open_index, write_index
from shards.format.join import check_unique_keys, concatenate_tables
from shards.format.meta import ShardRecord, format_version
from shards.format.schema import check_key
from shards.format.table import Table
from shards.system.files import (
    create_atomic,
    file_sha256,
    open_atomic,
    remove_leftovers,
    sha256_of,
    write_atomic,
)

PARTS_NAME = ".parts"
SETTINGS_NAME = "settings.json"


@dataclass(frozen=True)
class Row:
    """One clip as it goes into a shard."""

    key: str
    suffix: str
    """Suffix of the member that is indexed, without its dot."""
    data: bytes
    count: int
    """Samples, or chunks."""
    labels: tuple[int, ...] = ()
    """Weak class indices, ascending."""
    extra: dict[str, bytes] = field(default_factory=dict)
    """Further members by suffix, written after the indexed one."""


@dataclass(frozen=True)
class Part:
    """The record of one finished shard."""

    shard: ShardRecord
    rows: list[list[Any]]
    """key, offset, size, count, crc32 and weak class indices of every clip."""
    notes: list[list[str]]
    """What the maker wants kept about this shard, such as rejected clips."""


class _HashingStream:
    """A write-only stream that remembers the hash and length of what went by."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self.num_bytes


def write_shard(path: Path, rows: Iterable[Row]) -> Part:
    """Write the tar ``path`` whole and return its record.

    Plain USTAR, members in the order given, no times, owners or padding that could
    differ between two runs.
    """
    table: list[list[Any]] = []
    with open_atomic(path) as stream:
        hashing = _HashingStream(stream)
        with tarfile.open(
            fileobj=cast(BinaryIO, hashing), mode="w", format=tarfile.USTAR_FORMAT
        ) as tar:
            for row in rows:
                check_key(row.key, where=str(path))
                offset = _add_member(tar, f"{row.key}.{row.suffix}", row.data)
                table.append(part_row(row.key, offset, row.data, row.count, row.labels))
                for suffix, data in row.extra.items():
                    _add_member(tar, f"{row.key}.{suffix}", data)
        record = ShardRecord(
            path.name, len(table), hashing.num_bytes, hashing.digest.hexdigest()
        )
    return Part(record, table, [])


def part_row(
    key: str, offset: int, data: bytes, count: int, labels: Sequence[int]
) -> list[Any]:
    """What the record of a shard says of the member ``data`` at byte ``offset``."""
    return [key, offset, len(data), count, zlib.crc32(data), list(labels)]


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member and return the position of its first byte."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded


@dataclass(frozen=True)
class DatasetBuilder:
    """A dataset folder in the making."""

    folder: Path
    kind: str
    classes: Classes
    properties: dict[str, Any]
    provenance: dict[str, Any]
    """Also the settings that a rerun must share."""
    location: str | None = None
    """Folder of the tars when not in ``folder``: a dataset adopted in place."""
    copies: str | None = None
    """Local folder with the tars when ``location`` is a URL."""

    def begin(self) -> bool:
        """Take the folder; False if the dataset is already finished.

        Of several processes that begin at one moment, the settings of one hold for
        all. Raises ShardError if the folder holds, or is being filled with, something
        made with other settings.
        """
        if self.finished():
            return False
        path = self.parts_folder / SETTINGS_NAME
        for folder in (self.folder, self.parts_folder):
            remove_leftovers(folder)
        with self.unless_published():
            if not path.exists():
                create_atomic(path, json.dumps(self._settings()))
            self._refuse_other(json.loads(path.read_text()))
        return not self.finished()  # a rival may have come to the end meanwhile

    def finished(self) -> bool:
        """Whether the dataset is there, whole and made with these settings."""
        if not (self.folder / INDEX_NAME).exists():
            return False
        self.check_settings(open_index(self.folder, kind=self.kind))
        return True

    def check_settings(self, index: Index) -> None:
        """ShardError if the finished dataset of ``index`` was made with others."""
        self._refuse_other(
            _settings(index.kind, index.classes, index.properties, index.provenances[0])
        )

    def reopen(
        self, index: Index, whole: Collection[str], notes: dict[str, list[list[str]]]
    ) -> None:
        """Make the finished dataset an unfinished one that has only shards ``whole``.

        ``notes`` are those of its shards, by name. What is left is what a job killed
        before its end leaves behind; only the last thing done here shows.
        """
        write_atomic(self.parts_folder / SETTINGS_NAME, json.dumps(self._settings()))
        ends = np.cumsum([shard.num_clips for shard in index.shards]).tolist()
        for shard, end in zip(index.shards, ends, strict=True):
            if shard.name in whole:
                rows = _to_rows(index.table.rows(end - shard.num_clips, end, shard=0))
                self.record(Part(shard, rows, notes.get(shard.name, [])))
        (self.folder / INDEX_NAME).unlink()

    def _settings(self) -> dict[str, Any]:
        return _settings(self.kind, self.classes, self.properties, self.provenance)

    @functools.cached_property
    def _settings_sha256(self) -> str:
        return sha256_of(json.dumps(self._settings(), sort_keys=True).encode())

    def _refuse_other(self, found: dict[str, Any]) -> None:
        expected = json.loads(json.dumps(self._settings()))
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                raise ShardError(
                    f"{self.folder}: already holds {self.kind} made with "
                    f"{name} = {found.get(name)!r}, not {expected.get(name)!r}; "
                    "choose another folder or remove this one"
                )

    def part(self, name: str) -> Part | None:
        """The record of shard ``name``, or None if it is not finished.

        A shard that has lost its tar, or a piece of it, is not finished; nor is one
        made with other settings, by a process that did not see these.
        """
        tar = self._tar_path(name)
        try:
            fields = json.loads(self._part_path(name).read_text())
        except FileNotFoundError:
            return None
        if fields.pop("settings_sha256", None) != self._settings_sha256:
            return None
        shard = ShardRecord(**fields.pop("shard"))
        if not tar.is_file() or tar.stat().st_size != shard.num_bytes:
            return None
        return Part(shard=shard, **fields)

    def is_intact(self, part: Part) -> bool:
        """Whether the tar of ``part`` holds the bytes that its record names; reads it.

        A size, which part() looks at, does not tell one label shard from another.
        """
        try:
            return file_sha256(self._tar_path(part.shard.name)) == part.shard.sha256
        except FileNotFoundError:
            return False

    def _tar_path(self, name: str) -> Path:
        return Path(self.copies or self.location or self.folder) / name

    def add(
        self, name: str, rows: Iterable[Row], notes: list[list[str]] | None = None
    ) -> None:
        """Write shard ``name`` and its record, if the dataset is not published yet.

        ``notes`` may be filled while ``rows`` is consumed.
        """
        with self.unless_published():
            if not self.is_published():
                part = write_shard(self.folder / name, rows)
                part.notes.extend(notes or [])
                self.record(part)

    def is_published(self) -> bool:
        """Whether the index is there, by whatever process."""
        return (self.folder / INDEX_NAME).exists()

    @contextlib.contextmanager
    def unless_published(self) -> Iterator[None]:
        """Forgive that a rival has published, and cleared away what is worked on."""
        try:
            yield
        except FileNotFoundError:
            if not self.is_published():
                raise

    @property
    def parts_folder(self) -> Path:
        """Where processes that make the dataset leave notes; it goes at the end."""
        return self.folder / PARTS_NAME

    def has_record(self, name: str) -> bool:
        """Whether shard ``name`` was finished once; part() also looks at its tar."""
        return self._part_path(name).exists()

    def recorded(self) -> set[str]:
        """The names for which has_record is true, from one look at the folder."""
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.parts_folder)
            return {n.removesuffix(".json") for n in names if n.endswith(".tar.json")}
        return set()

    def record(self, part: Part) -> None:
        """Note that the shard of ``part`` is there, whole."""
        fields = {**asdict(part), "settings_sha256": self._settings_sha256}
        write_atomic(self._part_path(part.shard.name), json.dumps(fields))

    def forget(self, name: str) -> None:
        """Drop the record of shard ``name``, so that the next run makes it again."""
        self._part_path(name).unlink(missing_ok=True)

    def _part_path(self, name: str) -> Path:
        return self.parts_folder / f"{name}.json"

    def publish(self, names: Collection[str]) -> bool:
        """Write the index over shards ``names``; False while one is missing.

        Any process may call it, at any time and more than once.
        """
        parts = [part for name in names if (part := self.part(name))]
        if len(parts) == len(names) and not self.is_published():
            with self.unless_published():
                self._publish(parts)
        if self.is_published():
            shutil.rmtree(self.parts_folder, ignore_errors=True)
            remove_leftovers(self.folder)
        return self.is_published()

    def _publish(self, parts: list[Part]) -> None:
        index = make_index(
            self.folder,
            parts,
            kind=self.kind,
            classes=self.classes,
            properties=self.properties,
            provenance=self.provenance,
            location=self.location,
        )
        write_index(self.folder, index)


def make_index(
    folder: Path,
    parts: list[Part],
    *,
    kind: str,
    classes: Classes,
    properties: dict[str, Any],
    provenance: dict[str, Any],
    location: str | None = None,
) -> Index:
    """The index over finished shards; ShardError for a duplicate key."""
    shards = tuple(part.shard for part in parts)
    index = Index(
        kind=kind,
        classes=classes,
        shards=shards,
        places=tuple(str(Path(location or folder) / s.name) for s in shards),
        table=concatenate_tables([_to_table(part) for part in parts], [1] * len(parts)),
        properties=properties,
        provenances=(provenance,),
        fingerprints=(),
        location=location,
    )
    check_unique_keys(index)
    return index


def _settings(
    kind: str, classes: Classes, properties: dict[str, Any], provenance: dict[str, Any]
) -> dict[str, Any]:
    """What must be the same when a dataset is made in more than one go."""
    return {
        "format_version": format_version(properties),
        "kind": kind,
        **properties,
        **provenance,
        "classes_sha256": classes.sha256,
    }


def _to_rows(table: Table) -> list[list[Any]]:
    """The rows of a record, from those of an index."""
    columns = (table.offset, table.size, table.count, table.crc32)
    keys = [key.decode() for key in table.key.tolist()]
    labels = np.split(table.label, table.label_start[1:-1])
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    return [
        [key, *values, of_row.tolist()]
        for key, values, of_row in zip(keys, numbers, labels, strict=True)
    ]


def _to_table(part: Part) -> Table:
    columns = zip(*part.rows, strict=True) if part.rows else [()] * 6
    keys, offsets, sizes, counts, crc32s, labels = columns
    return Table(
        key=np.array([key.encode() for key in keys], np.bytes_),
        shard=np.zeros(len(keys), np.int32),
        offset=np.array(offsets, np.int64),
        size=np.array(sizes, np.int64),
        count=np.array(counts, np.int32),
        crc32=np.array(crc32s, np.uint32),
        label_start=np.cumsum([0, *map(len, labels)]).astype(np.int64),
        label=np.array([i for row in labels for i in row], np.int32),
    )
