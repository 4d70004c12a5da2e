"""Tables in pages, and whether they are what the stored results say.

Owns the marks above tables: <!-- table: FILE.TABLE --> for stored results, and
<!-- no results: why --> for other tables with numbers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from shards.errors import ShardError

_MARK = re.compile(r"<!-- (table|no results): (.+) -->")
_NOT_SHOWN = re.compile(r"`[^`]*`|(?<=\])\([^)]*\)")
_NUMBER = re.compile(r"\W*\d")
_FEW_NUMBERS = 2
"""A table with fewer cells that begin with a number needs no mark."""
Render = Callable[[str], list[str]]
"""The lines of a table by its name; ShardError if there is none."""


@dataclass(frozen=True)
class PageTable:
    """A table of a page."""

    start: int
    """Index of its first line."""
    lines: list[str]
    """Empty if there is no table below a mark."""
    results: str | None
    """The name in its mark; None without."""
    reason: str | None
    """Why it has no results, from its mark."""

    @property
    def num_numbers(self) -> int:
        """Cells of its body that begin with a number, code aside."""
        cells = (
            cell.strip()
            for line in self.lines[2:]
            for cell in _NOT_SHOWN.sub("", line).strip("|").split("|")
        )
        return sum(_NUMBER.match(cell) is not None for cell in cells)


def tables_of(text: str) -> Iterator[PageTable]:
    """The tables of a page in order, and marks that have none below."""
    lines, fenced, number = text.split("\n"), False, 0
    while number < len(lines):
        fenced ^= lines[number].lstrip().startswith("```")
        mark = None if fenced else _MARK.fullmatch(lines[number])
        start = stop = number + 1 if mark else number
        while stop < len(lines) and lines[stop].startswith("|"):
            stop += 1
        if not fenced and (mark or stop > start):
            results = mark[2] if mark and mark[1] == "table" else None
            reason = mark[2] if mark and mark[1] == "no results" else None
            yield PageTable(start, lines[start:stop], results, reason)
        number = max(stop, number + 1)


def problems(page: Path, name: str, render: Render) -> Iterator[str]:
    """A line for each thing that is wrong with the tables of ``page``."""
    for table in tables_of(page.read_text(encoding="utf-8")):
        where = f"{name}:{table.start + 1}"
        if not table.lines:
            yield f"{where}: no table below the mark {table.results or table.reason!r}"
        elif table.results is not None:
            yield from _differences(name, table, render)
        elif table.reason is None and table.num_numbers >= _FEW_NUMBERS:
            yield (
                f"{where}: a table with {table.num_numbers} numbers and no mark; put "
                "<!-- table: FILE.TABLE --> above it, with its numbers in "
                "docs/results/FILE.json, or <!-- no results: why -->"
            )


def _differences(name: str, table: PageTable, render: Render) -> Iterator[str]:
    try:
        expected = render(table.results or "")
    except ShardError as error:
        yield f"{name}:{table.start + 1}: {error}"
        return
    for offset, (found, due) in enumerate(zip_longest(table.lines, expected)):
        if found != due:
            yield (
                f"{name}:{table.start + 1 + offset}: table {table.results}: found "
                f"{_shown(found)}, expected {_shown(due)}"
            )


def _shown(line: str | None) -> str:
    return "no line" if line is None else repr(line)


def rewritten(text: str, render: Render) -> str:
    """A page with its tables of results as they should be."""
    lines = text.split("\n")
    for table in reversed(list(tables_of(text))):
        if table.results is not None and table.lines:
            stop = table.start + len(table.lines)
            with contextlib.suppress(ShardError):  # problems() says it
                lines[table.start : stop] = render(table.results)
    return "\n".join(lines)
