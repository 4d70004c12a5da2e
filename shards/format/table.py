"""clips.npz: one row for each clip, its bytes on disk, and what must hold for it.

Owns the columns. A table may come from anyone, so nothing in it is unpickled,
decompressed or evaluated, and check_table says whether it can describe any shards at
all; whether it describes these very tars is verify.py's question.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

from shards.errors import ShardError
from shards.format.schema import KEY_CHARS, KEY_MAX_CHARS, check_key

COLUMNS = {
    "key": "|S",
    "shard": "<i4",
    "offset": "<i8",
    "size": "<i8",
    "count": "<i4",
    "crc32": "<u4",
    "label_start": "<i8",
    "label": "<i4",
}
"""Names of the arrays in clips.npz, in order, and their types (|S of any width)."""

MAX_TABLE_BYTES = 4 << 30
"""A longer clips.npz is refused; full AudioSet's has 0.14 GB."""

_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"\{'descr': '(\|S[1-9][0-9]?|<[iu][48])', 'fortran_order': False, "
    rb"'shape': \((0|[1-9][0-9]{0,11}),\), \} *\n"
)
_IS_KEY_CHAR = np.isin(np.arange(256), list(KEY_CHARS.encode()))
_KEYS_AT_ONCE = 1 << 18
"""Keys looked at in one go, so that checking 2 million of them needs few MB."""


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
    crc32: np.ndarray
    """[R] uint32, CRC-32 of that member, by which verify names a damaged clip."""
    label_start: np.ndarray
    """[R + 1] int64; row r has label[label_start[r] : label_start[r + 1]]."""
    label: np.ndarray
    """[L] int32, class indices; empty in a label dataset."""

    def __len__(self) -> int:
        return len(self.key)

    @property
    def label_rows(self) -> np.ndarray:
        """The row of each weak label [L] int64, as ``label`` has their classes."""
        return np.repeat(np.arange(len(self)), np.diff(self.label_start))

    def weak_targets(self, rows: np.ndarray, num_classes: int) -> np.ndarray:
        """Weak labels [len(rows), C] float32 in {0, 1}."""
        targets = np.zeros((len(rows), num_classes), np.float32)
        for position, row in enumerate(rows):
            targets[position, self.label[slice(*self.label_start[row : row + 2])]] = 1.0
        return targets

    def rows(self, start: int, stop: int, *, shard: int) -> Table:
        """Rows ``start`` to ``stop`` alone, as the rows of shard number ``shard``."""
        first, last = self.label_start[[start, stop]]
        return Table(
            key=self.key[start:stop],
            shard=np.full(stop - start, shard, np.int32),
            offset=self.offset[start:stop],
            size=self.size[start:stop],
            count=self.count[start:stop],
            crc32=self.crc32[start:stop],
            label_start=self.label_start[start : stop + 1] - first,
            label=self.label[first:last],
        )

    def to_bytes(self) -> bytes:
        """The content of clips.npz; the same rows give the same bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name) for name in COLUMNS})
        return buffer.getvalue()


def read_table(data: bytes, *, where: str) -> Table:
    """The table in the bytes of a clips.npz; needs no more memory than twice ``data``.

    Raises ShardError unless it holds these columns, stored as they are, each a plain
    array of its own type. check_table looks at the values.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_members(archive, len(data))
            return Table(
                **{
                    name: _read_column(archive.read(f"{name}.npy"), kind)
                    for name, kind in COLUMNS.items()
                }
            )
    except (
        zipfile.BadZipFile,  # these are all that zipfile raises at broken archives
        EOFError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise ShardError(
            f"{where}: not a clip table: {error!r}; restore the file"
        ) from None


def _check_members(archive: zipfile.ZipFile, num_bytes: int) -> None:
    members = archive.infolist()
    names = sorted(member.filename for member in members)
    if names != sorted(f"{name}.npy" for name in COLUMNS):
        raise ValueError(f"holds {names[:20]}, expected the columns {list(COLUMNS)}")
    for member in members:
        if (
            member.compress_type != zipfile.ZIP_STORED
            or member.compress_size != member.file_size
        ):
            raise ValueError(f"{member.filename} is compressed, expected it as it is")
    if sum(member.file_size for member in members) > num_bytes:
        raise ValueError("its members claim more bytes than there are")


def _read_column(data: bytes, kind: str) -> np.ndarray:
    """The array of a ``.npy``, its header matched letter by letter, not evaluated."""
    if data[:8] != _NPY_MAGIC or len(data) < 10:
        raise ValueError("a column is not a .npy of version 1.0")
    start = 10 + struct.unpack_from("<H", data, 8)[0]
    header = _NPY_HEADER.fullmatch(data[10:start])
    if not header or not header[1].decode().startswith(kind):
        raise ValueError(f"a column has the header {data[10:90]!r}, expected {kind}")
    dtype, length = np.dtype(header[1].decode()), int(header[2])
    if start + length * dtype.itemsize != len(data):
        raise ValueError(f"a column of {length} {dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype, offset=start)


def check_table(
    table: Table,
    *,
    shard_clips: np.ndarray,
    shard_bytes: np.ndarray,
    num_classes: int,
    min_count: int,
    max_count: int,
    least_bytes: int,
    where: str,
) -> None:
    """ShardError naming the first row that cannot be a row of these shards.

    ``shard_clips`` and ``shard_bytes`` [S] int64 say how many clips and bytes each
    shard has. Weak labels lie below ``num_classes``; a member has ``min_count`` to
    ``max_count`` samples or chunks of at least ``least_bytes`` bytes each. 2 million
    rows take about 0.3 s (2026-11-22).
    """
    num_rows = int(shard_clips.sum())
    lengths = {name: len(getattr(table, name)) for name in COLUMNS}
    expected = {name: num_rows for name in COLUMNS if name != "label"}
    expected |= {"label_start": num_rows + 1, "label": lengths["label"]}
    if lengths != expected:
        raise ShardError(f"{where}: columns have {lengths} rows, expected {expected}")
    _check_keys(table.key, where)
    _check_labels(table, num_classes, where)
    room = shard_bytes[np.repeat(np.arange(len(shard_clips)), shard_clips)]
    wrong = {
        "shard": table.shard != np.repeat(np.arange(len(shard_clips)), shard_clips),
        "size": (table.size < 1) | (table.size > room),
        "offset": (table.offset < 512)
        | (table.offset % 512 != 0)
        | (table.offset > room - table.size),
        "count": (table.count < min_count)
        | (table.count > max_count)
        | (table.count.astype(np.int64) * least_bytes > table.size),
    }
    for name, bad in wrong.items():
        if bad.any():
            row = int(bad.argmax())
            raise ShardError(
                f"{where}: row {row} ({bytes(table.key[row])!r}): {name} "
                f"{getattr(table, name)[row]} is impossible; restore the file"
            )
    ends = table.offset + table.size
    over = (table.offset[1:] < ends[:-1]) & (table.shard[1:] == table.shard[:-1])
    if over.any():
        row = int(over.argmax()) + 1
        raise ShardError(
            f"{where}: row {row} ({bytes(table.key[row])!r}) begins before the end of "
            "the row before it; restore the file"
        )


def _check_keys(keys: np.ndarray, where: str) -> None:
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = np.ascontiguousarray(keys[start : start + _KEYS_AT_ONCE])
        allowed = _IS_KEY_CHAR[some.view(np.uint8).reshape(len(some), some.itemsize)]
        lengths = np.char.str_len(some)
        bad = (lengths < 1) | (lengths > KEY_MAX_CHARS)
        bad |= allowed.sum(axis=1) != lengths
        if bad.any():
            row = int(bad.argmax())
            # latin-1 shows every byte, and no byte but the allowed passes the check
            check_key(some[row].decode("latin-1"), where=f"{where}: row {start + row}")
            raise ShardError(f"{where}: row {start + row}: a key with a NUL inside")
        for reserved in np.flatnonzero(np.char.startswith(some, b"__")):
            check_key(some[reserved].decode(), where=f"{where}: row {start + reserved}")
    if same := first_repeat(keys):
        raise ShardError(
            f"{where}: duplicate key {bytes(keys[same[0]])!r} in rows {same[0]} "
            f"and {same[1]}; keep one of them"
        )


def first_repeat(keys: np.ndarray) -> tuple[int, int] | None:
    """The rows of a duplicate among keys [R] bytes, or None; 2 million take 0.1 s.

    Numbers that mix the bytes of a key are compared first: sorting them is seven
    times faster than sorting the keys (measured 2026-11-22), and keys of different
    numbers differ.
    """
    width = -(-keys.itemsize // 8) * 8
    words = keys.astype(f"S{width}").view("<u8").reshape(len(keys), width // 8)
    mixed = np.zeros(len(keys), np.uint64)
    for column in words.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    mixed.sort()
    if not (mixed[1:] == mixed[:-1]).any():
        return None
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return (int(order[same[0]]), int(order[same[0] + 1])) if len(same) else None


def _check_labels(table: Table, num_classes: int, where: str) -> None:
    """The CSR part: bounds in order, classes that exist, ascending in each row."""
    bounds, label = table.label_start, table.label
    if (
        bounds[0] != 0
        or bounds[-1] != len(label)
        or (bounds[1:] < bounds[:-1]).any()  # a difference could overflow
    ):
        raise ShardError(
            f"{where}: label_start does not run from 0 to {len(label)} without going "
            "back; restore the file"
        )
    if ((label < 0) | (label >= num_classes)).any():
        raise ShardError(
            f"{where}: weak labels {label.min()} to {label.max()}, expected classes "
            f"below {num_classes}; restore the file"
        )
    climbs = np.append(label[1:] > label[:-1], True)
    climbs[bounds[1:-1][bounds[1:-1] > 0] - 1] = True  # the next label is another row's
    if not climbs.all():
        row = int(np.searchsorted(bounds, climbs.argmin(), side="right")) - 1
        raise ShardError(
            f"{where}: row {row}: weak labels {label[slice(*bounds[row : row + 2])]} "
            "are not ascending; restore the file"
        )
