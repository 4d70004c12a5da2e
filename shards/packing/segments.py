"""Segments CSVs in AudioSet's form.

Owns what a row of such a CSV means. audio_files.py finds the files it refers to.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from shards.errors import ShardError
from shards.format.lists import open_list
from shards.format.schema import make_key
from shards.packing.names import MAX_START_SECONDS

_HEADER = (
    re.compile(r"(start|onset|begin)[a-z_ ]*", re.IGNORECASE),
    re.compile(r"(end|offset|stop)[a-z_ ]*", re.IGNORECASE),
)
"""Names of the second and third column in a header line."""

_COMMENT = re.compile(r"#+($|\s)")
"""How a line above the first row may begin that holds no segment."""

_AUDIOSET_COMMENT = re.compile(r"# *(Segments csv created|num_ytids=|YTID\b)")
"""The same for any line: AudioSet's files may be joined into one."""


class LabelParser(Protocol):
    """What a row's labels are read by, as LabelReader."""

    def parse(self, value: object, *, where: str) -> tuple[int, ...]:
        """Class indices, ascending."""


@dataclass(frozen=True)
class Segment:
    """One row of a segments CSV, or several that agree in all but labels."""

    clip_id: str
    start_seconds: float
    end_seconds: float
    labels: tuple[int, ...]
    """Class indices, ascending."""
    line: int = 0
    """Line of the CSV, from 1."""

    @functools.cached_property
    def key(self) -> str:
        """The key of the clip in its shard."""
        return make_key(self.clip_id, self.start_seconds)


def read_segments(path: str | Path, reader: LabelParser) -> list[Segment]:
    """The segments of a CSV: its rows, with those of one clip joined.

    Raises ShardError as read_rows and join_rows do.
    """
    return join_rows(read_rows(path, reader), where=str(path))


def read_rows(path: str | Path, reader: LabelParser) -> list[Segment]:
    """The rows of a CSV in AudioSet's form (id, start, end, "mid,mid").

    A header, and lines that begin with ``# `` and hold no segment, are passed over
    above the first row, AudioSet's own also below.

    Raises ShardError naming file and line: nothing in it, a malformed row, a label that
    ``reader`` does not know, an end before its start.
    """
    with open_list(path, "segments") as stream:
        rows = list(_parse_rows(stream, reader, str(path)))
    if not rows:
        raise ShardError(
            f'{path}: no segments; expected rows like: id, 30.000, 40.000, "/m/09x0r"'
        )
    return rows


def _parse_rows(
    stream: Iterable[str], reader: LabelParser, path: str
) -> Iterator[Segment]:
    lines, is_above = csv.reader(stream, skipinitialspace=True), True
    for fields in lines:
        if not any(field.strip() for field in fields):
            continue
        if _is_comment(fields, is_above) or (is_above and _is_header(fields)):
            continue
        is_above = False
        where = f"{path}: line {lines.line_num}"
        yield _parse_row(fields, reader, where, lines.line_num)


def _is_comment(fields: Sequence[str], is_above: bool) -> bool:
    """Whether a line, above all rows or not, is none; ``# 1, 0, 10, Dog`` is one."""
    pattern = _COMMENT if is_above else _AUDIOSET_COMMENT
    is_row = len(fields) > 2 and all(map(_is_number, fields[1:3]))
    return bool(pattern.match(fields[0])) and not is_row


def _is_header(fields: Sequence[str]) -> bool:
    return len(fields) == 4 and all(
        pattern.fullmatch(field.strip())
        for pattern, field in zip(_HEADER, fields[1:3], strict=True)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_row(
    fields: Sequence[str], reader: LabelParser, where: str, line: int
) -> Segment:
    try:
        clip_id, start, end, mids = fields
        start_seconds, end_seconds = float(start), float(end)
    except ValueError:
        raise ShardError(
            f"{where}: found {','.join(fields)!r}, expected id, start_seconds, "
            f'end_seconds, "mid,mid"{_hint(fields)}'
        ) from None
    if not 0 <= start_seconds < end_seconds < MAX_START_SECONDS:
        raise ShardError(
            f"{where}: from {start_seconds} s to {end_seconds} s; expected "
            "0 <= start < end"
        )
    labels = reader.parse(mids, where=where)
    return Segment(clip_id, start_seconds, end_seconds, labels, line)


def _hint(fields: Sequence[str]) -> str:
    """What to do about a malformed row, where it can be told."""
    for name, character in (("tabs", "\t"), ("semicolons", ";")):
        if character in fields[0]:
            return f"; it has {name}, separate fields with commas"
    if len(fields) > 4 and all(map(_is_number, fields[1:3])):
        return "; put quotes around several labels"
    if fields[0].startswith("#"):
        return "; remove the line if it is a comment"
    return ""


def join_rows(rows: Iterable[Segment], *, where: str) -> list[Segment]:
    """The clips of ``rows``, where rows of the same clip each add labels.

    Raises ShardError naming both lines if two rows are the same, or differ in their
    end.
    """
    joined: dict[str, Segment] = {}
    seen: dict[tuple[str, tuple[int, ...]], int] = {}
    for row in rows:
        first = joined.setdefault(row.key, row)
        if first is not row:
            _check_same_clip(first, row, where)
            labels = tuple(sorted({*first.labels, *row.labels}))
            joined[row.key] = replace(first, labels=labels)
        line = seen.setdefault((row.key, row.labels), row.line)
        if first is not row and line != row.line:
            raise ShardError(
                f"{where}: line {row.line}: duplicate of line {line} ({row.clip_id!r} "
                f"from {row.start_seconds} s); keep one"
            )
    return list(joined.values())


def _check_same_clip(first: Segment, row: Segment, where: str) -> None:
    one = (first.start_seconds, first.end_seconds)
    two = (row.start_seconds, row.end_seconds)
    if one != two:
        raise ShardError(
            f"{where}: line {row.line}: {row.clip_id!r} from {two[0]} s to {two[1]} s, "
            f"but {one[0]} s to {one[1]} s in line {first.line}; keep one"
        )
