"""Every table of results that a page shows, by name, as lines of Markdown.

A name is FILE.TABLE, of docs/results/FILE.json. Owns which tables a file has;
systems.py and tools/paper/real_tables.py lay them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shards.errors import ShardError
from tools.paper.real_tables import REAL_TABLES
from tools.results.stored import Cells, Stored, read_stored
from tools.results.systems import LAYOUTS, System, systems_table


class Results:
    """The stored results of a folder, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Stored] = {}

    def files(self) -> list[str]:
        """The names of all files."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def stored(self, file: str) -> Stored:
        """The content of FILE.json."""
        if file not in self._read:
            self._read[file] = read_stored(self._folder / f"{file}.json")
        return self._read[file]

    def tables(self, file: str) -> list[str]:
        """FILE.TABLE of each table of a file."""
        stored = self.stored(file)
        names = list(stored.tables)
        if stored.real:
            names += [name for name, lines in REAL_TABLES.items() if lines(stored.real)]
        found = [f"{file}.{name}" for name in names]
        return found + [t for t in LAYOUTS if stored.systems and _file(t) == file]

    def render(self, table: str) -> list[str]:
        """The lines of FILE.TABLE; ShardError if there is no such table."""
        file, name = _file(table), table.partition(".")[2]
        if file not in self.files() or table not in self.tables(file):
            raise ShardError(
                f"{table}: no such table of results; expected FILE.TABLE with "
                f"FILE.json in {self._folder}"
            )
        stored = self.stored(file)
        if name in stored.tables:
            return markdown(stored.tables[name])
        if table in LAYOUTS:
            cells = systems_table(LAYOUTS[table], lambda p: self._system(file, p))
            return markdown(cells)
        return REAL_TABLES[name](stored.real)

    def _system(self, file: str, place: str) -> System:
        """The system at NAME or FILE/NAME; empty if it was not run."""
        other, _, name = place.rpartition("/")
        return self.stored(other or file).systems.get(name, {})


def _file(table: str) -> str:
    return table.partition(".")[0]


def markdown(cells: Cells) -> list[str]:
    """The lines of a table."""
    lines = [_line(cells["columns"]), "|" + "---|" * len(cells["columns"])]
    return lines + [_line(row) for row in cells["rows"]]


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
