"""Records as text, JSON lines, CSV, Parquet, Audacity labels and Raven tables.

Owns the formats. A writer takes the records of one file after another, in bounded
memory, and writes to a binary stream.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from psl.tagging.records import Record, rows_of
from shards.system.extras import pip_install

COLUMNS = ("file", "start", "end", "name", "mid", "probability")
SUFFIXES = {
    "json": ".jsonl",
    "csv": ".csv",
    "parquet": ".parquet",
    "audacity": ".txt",
    "raven": ".selections.txt",
    "text": ".text.txt",
}
"""Of each format; a name with such an end has that format."""
OF_EVENTS = ("audacity", "raven")
"""Formats whose rows are events, never windows."""
_READ_AS = {".json": "json", ".ndjson": "json", ".pq": "parquet"} | {
    suffix: name for name, suffix in SUFFIXES.items()
}
_ROWS_AT_A_TIME = 1 << 14


class Writer(Protocol):
    """Takes records."""

    def write(self, record: Record) -> None:
        """One record; the last of a file has its ``seconds``."""

    def close(self) -> None:
        """Write what is left; not the stream's end, which is its owner's."""


def format_of(name: str) -> str:
    """The format that a file name means; ValueError if it means none."""
    for suffix in sorted(_READ_AS, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return _READ_AS[suffix]
    raise ValueError(
        f"{name}: no known format; expected a name ending in "
        f"{', '.join(SUFFIXES.values())}, a folder, or a format given by --format"
    )


def open_writer(kind: str, stream: BinaryIO, *, whole: bool = False) -> Writer:
    """A writer of format ``kind`` (a key of SUFFIXES).

    ``whole`` says that windows are whole files. ValueError if a package is missing.
    """
    writers: dict[str, Callable[[], Writer]] = {
        "json": lambda: _Json(stream),
        "csv": lambda: _Csv(stream),
        "parquet": lambda: _Parquet(stream),
        "audacity": lambda: _Audacity(stream),
        "raven": lambda: _Raven(stream),
        "text": lambda: _Text(stream, whole=whole),
    }
    return writers[kind]()


def import_pyarrow() -> Any:
    """pyarrow; ValueError if it is not installed."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise ValueError(
            f"Parquet needs a package that is not installed ({error}); run "
            f"{pip_install('parquet')}, or write CSV"
        ) from None


def one_line(text: str) -> str:
    """``text`` without what would break a line, a table or a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


class _Lines:
    """Text lines on a binary stream, each passed on at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        self._stream.write(f"{text}\n".encode(errors="backslashreplace"))
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back."""


class _Json(_Lines):
    def write(self, record: Record) -> None:
        if "seconds" not in record:
            self.line(json.dumps(record, allow_nan=False))


class _Csv(_Lines):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._row(COLUMNS)

    def write(self, record: Record) -> None:
        if "seconds" not in record:
            for row in rows_of(record):
                clean = {name: one_line(row[name]) for name in ("name", "mid")}
                self._row([(row | clean)[name] for name in COLUMNS])

    def _row(self, values: Any) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="").writerow(values)
        self.line(buffer.getvalue())


class _Parquet:
    """Rows in groups of 16,384."""

    def __init__(self, stream: BinaryIO) -> None:
        arrow = import_pyarrow()
        text, number = arrow.string(), arrow.float64()
        types = (text, number, number, text, text, number)
        self._arrow = arrow
        self._schema = arrow.schema(list(zip(COLUMNS, types, strict=True)))
        self._writer = arrow.parquet.ParquetWriter(stream, self._schema)
        self._rows: list[Record] = []

    def write(self, record: Record) -> None:
        if "seconds" in record:
            return
        for row in rows_of(record):
            file = row["file"].encode(errors="backslashreplace").decode()
            self._rows.append(row | {"file": file})
        if len(self._rows) >= _ROWS_AT_A_TIME:
            self._flush()

    def _flush(self) -> None:
        table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
        self._writer.write_table(table)
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


class _Audacity(_Lines):
    """A label track: start, end and label. It has no column for the file."""

    def write(self, record: Record) -> None:
        if "seconds" not in record:
            for row in rows_of(record):
                label = f"{one_line(row['name'])} {row['probability']:.2f}"
                self.line(f"{row['start']:.6f}\t{row['end']:.6f}\t{label}")


class _Raven(_Lines):
    """A selection table.

    Begin Time counts from the start of the first file, as Raven shows files that are
    opened together.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._number, self._before = 0, 0.0
        self.line(
            "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tBegin Path\t"
            "File Offset (s)\tTag\tMID\tScore"
        )

    def write(self, record: Record) -> None:
        if "seconds" in record:
            self._before += record["seconds"]
            return
        for row in rows_of(record):
            self._number += 1
            start, end = self._before + row["start"], self._before + row["end"]
            self.line(
                f"{self._number}\tSpectrogram 1\t1\t{start:.6f}\t{end:.6f}\t"
                f"{one_line(row['file'])}\t{row['start']:.6f}\t{one_line(row['name'])}"
                f"\t{one_line(row['mid'])}\t{row['probability']:.4f}"
            )


class _Text(_Lines):
    """For people: a line for the file, then one for each window, event or tag."""

    def __init__(self, stream: BinaryIO, *, whole: bool) -> None:
        super().__init__(stream)
        self._whole = whole
        self._file: str | None = None
        self._has_lines = False

    def write(self, record: Record) -> None:
        if record["file"] != self._file:
            self._file, self._has_lines = record["file"], False
            self.line(one_line(record["file"]))
        if "seconds" in record:
            if not self._has_lines:
                self.line("  nothing above the threshold")
            return
        if self._whole and "tags" in record:
            lines = [f"{t['probability']:.2f}  {shown(t)}" for t in record["tags"]]
        elif "tags" in record:
            tags = [f"{shown(t)} {t['probability']:.2f}" for t in record["tags"]]
            lines = [f"{times(record)}  {', '.join(tags) or '-'}"]
        else:
            lines = [f"{times(record)}  {record['probability']:.2f}  {shown(record)}"]
        self._has_lines |= bool(lines)
        for line in lines:
            self.line(f"  {line}")


def shown(tag: Record) -> str:
    """The name of a tag, for a terminal."""
    return one_line(tag["name"])


def times(record: Record) -> str:
    """Start and end of a record, in seconds."""
    return f"{record['start']:9.2f} {record['end']:9.2f}"
