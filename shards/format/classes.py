"""The label space: mid <-> index <-> display name.

Owns the class list of a dataset and its CSV (AudioSet's class_labels_indices.csv).
weak_labels.py reads the labels of clips.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ShardError
from shards.system.files import read_bounded

MAX_CLASS_LIST_BYTES = 16 << 20
"""A longer class list is refused; AudioSet's has 15 kB."""


@dataclass(frozen=True)
class Classes:
    """An ordered list of classes."""

    mids: tuple[str, ...]
    """Machine ids, AudioSet's ``/m/...``, unique."""
    names: tuple[str, ...]
    """Display names, in the order of ``mids``."""

    def __len__(self) -> int:
        return len(self.mids)

    @functools.cached_property
    def index_of(self) -> dict[str, int]:
        """Class index by mid."""
        return {mid: index for index, mid in enumerate(self.mids)}

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the mids in order: what model outputs and label columns mean."""
        return hashlib.sha256("\n".join(self.mids).encode()).hexdigest()

    def to_csv(self) -> str:
        """The class list in AudioSet's CSV form."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["index", "mid", "display_name"])
        for index, (mid, name) in enumerate(zip(self.mids, self.names, strict=True)):
            writer.writerow([index, mid, name])
        return buffer.getvalue()


def class_difference(found: Sequence[object], expected: Sequence[object]) -> str:
    """How one list of mids differs from another, for messages."""
    parts = [
        f"{len(mids)} {word} ({', '.join(map(str, mids[:3]))}"
        + (", ...)" if len(mids) > 3 else ")")
        for word, mids in (
            ("more", [mid for mid in found if mid not in expected]),
            ("missing", [mid for mid in expected if mid not in found]),
        )
        if mids
    ]
    if parts:
        return f"{len(found)} classes, expected {len(expected)}: {', '.join(parts)}"
    pairs = enumerate(itertools.zip_longest(found, expected, fillvalue="nothing"))
    at, (mid, wanted) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
    return (
        f"the {len(found)} classes in another order: number {at} is {mid}, "
        f"expected {wanted}"
    )


def read_classes(path: str | Path) -> Classes:
    """The classes of a CSV with columns index, mid, display_name.

    Blanks around fields do not count, nor does the case of the header. Raises
    ShardError on a missing file, column, row or field, an index out of order, or a
    repeated mid.
    """
    try:
        data = read_bounded(path, MAX_CLASS_LIST_BYTES)
    except ShardError as error:
        raise ShardError(f"cannot read class list: {error}") from None
    return parse_classes(data, str(path), strip=True)


def parse_classes(data: bytes, path: str, *, strip: bool = False) -> Classes:
    """The classes of the content of such a CSV; ``path`` is for messages.

    ``strip`` ignores blanks around fields, which people write. The list of a dataset
    is read as it was written, so that the hash of its mids fits.
    """
    rows = _read_rows(data, path, strip=strip)
    for number, row in enumerate(rows):
        where = f"{path}: line {number + 2}"
        if row["index"] != str(number):
            raise ShardError(
                f"{where}: index {row['index']!r}, expected {number}; number the "
                "classes from 0 without gaps"
            )
        if None in row or None in row.values() or not row["mid"]:
            raise ShardError(
                f"{where}: expected index,mid,display_name and nothing else; quote a "
                "name that holds a comma"
            )
        if not (row["mid"] + row["display_name"]).isprintable():
            raise ShardError(
                f"{where}: {row['mid']!r}, {row['display_name']!r} hold characters "
                "that cannot be shown; expected plain text on one line"
            )
    mids = tuple(row["mid"] for row in rows)
    if len(set(mids)) < len(mids):
        twice, _ = Counter(mids).most_common(1)[0]
        raise ShardError(f"{path}: duplicate mid {twice!r}; list it once")
    return Classes(mids, tuple(row["display_name"] for row in rows))


def _read_rows(data: bytes, path: str, *, strip: bool) -> list[dict[str, str]]:
    """The rows below a header that has the columns of a class list."""
    try:
        stream = io.StringIO(data.decode("utf-8-sig"), newline="")
        reader = csv.DictReader(stream, skipinitialspace=strip)
        header = list(reader.fieldnames or ())
        if strip:
            reader.fieldnames = [_normal_name(name) for name in header]
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ShardError(
            f"{path}: cannot read class list: {error}; save it as CSV in UTF-8"
        ) from None
    if not rows:
        raise ShardError(f"{path}: no classes; expected rows index,mid,display_name")
    if not {"index", "mid", "display_name"} <= rows[0].keys():
        raise ShardError(
            f"{path}: columns {header}; expected index,mid,display_name, separated by "
            "commas"
        )
    return [_strip_values(row) for row in rows] if strip else rows


def _normal_name(column: str) -> str:
    return column.strip().lower().replace(" ", "_")


def _strip_values(row: dict[str, str]) -> dict[str, str]:
    """``row`` with its texts stripped; what is missing or too much stays as it is."""
    return {
        name: value.strip() if isinstance(value, str) else value
        for name, value in row.items()
    }
