"""The label space: mid <-> index <-> display name.

Owns the class list of a dataset and its CSV (AudioSet's class_labels_indices.csv).
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
from collections import Counter
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
    def _index_of_any(self) -> dict[str, int]:
        """Class index by name, number and mid; what is ambiguous is left out."""
        found: dict[str, int] = {}
        for column in (self.names, [str(i) for i in range(len(self))], self.mids):
            counts = Counter(column)
            found |= {t: i for i, t in enumerate(column) if counts[t] == 1}
        return found

    def parse_labels(self, value: object, *, where: str) -> tuple[int, ...]:
        """Class indices, ascending, of labels as people write them.

        ``value`` is a mid, a display name or a class index, a list of them, or a
        string of them parted by ``;`` or ``,``; None and "" are no label. Raises
        ShardError naming ``where`` if one is not in this class list.
        """
        if value is None:
            return ()
        known = self._index_of_any
        if isinstance(value, str) and value.strip() not in known:
            value = value.split(";" if ";" in value else ",")
        labels = set()
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, bool) or not isinstance(item, str | int):
                raise ShardError(
                    f"{where}: label {item!r}; expected a mid, a name or a class index"
                )
            text = str(item).strip()
            if isinstance(item, int) and 0 <= item < len(self):
                labels.add(item)
                continue
            if isinstance(item, int) or (text and text not in known):
                raise ShardError(
                    f"{where}: label {text!r} is not in the class list ({len(self)} "
                    "classes); give the list these labels were made with"
                )
            labels |= {known[text]} if text else set()
        return tuple(sorted(labels))

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


def read_classes(path: str | Path) -> Classes:
    """The classes of a CSV with columns index, mid, display_name.

    Raises ShardError on a missing file, column, row or field, an index out of order,
    or a repeated mid.
    """
    try:
        data = read_bounded(path, MAX_CLASS_LIST_BYTES)
    except ShardError as error:
        raise ShardError(f"cannot read class list: {error}") from None
    return parse_classes(data, str(path))


def parse_classes(data: bytes, path: str) -> Classes:
    """The classes of the content of such a CSV; ``path`` is for messages."""
    try:
        stream = io.StringIO(data.decode("utf-8-sig"), newline="")
        rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path}: cannot read class list: {error}") from None
    if not rows:
        raise ShardError(f"{path}: no classes; expected rows index,mid,display_name")
    if not {"index", "mid", "display_name"} <= rows[0].keys():
        raise ShardError(
            f"{path}: columns {list(rows[0])}; expected index,mid,display_name"
        )
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
        raise ShardError(f"{path}: mid {twice!r} stands twice; list it once")
    return Classes(mids, tuple(row["display_name"] for row in rows))
