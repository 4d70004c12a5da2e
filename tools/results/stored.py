"""docs/results/NAME.json: the numbers that pages show, and what made them.

Owns the file: small, strict JSON. How tables are laid out is in tables.py, which of
them stand where, in pages.py.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.system.files import read_bounded, write_atomic

VERSION = 1
MEASURED = "measured"
"""Source of what a command wrote; anything else says where numbers were copied from."""
_MAX_BYTES = 1 << 20
_PACKAGES = ("psl-audio", "torch", "numpy")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
Cells = dict[str, list[Any]]
"""A table as text: its columns' titles, and rows of cells."""


@dataclass(frozen=True)
class Stored:
    """The results of one command, or of what it once printed."""

    date: str
    """When they were measured, ISO 8601."""
    command: str
    """What made them."""
    source: str
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python and packages; empty where they were not kept."""
    systems: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By system, what tools.paper.results.summarise gives."""
    real: dict[str, Any] = field(default_factory=dict)
    """What tools.paper.real_results collects."""
    tables: dict[str, Cells] = field(default_factory=dict)
    """Tables that are stored as they are shown."""


def measured_now(**values: Any) -> Stored:
    """Results of this process' command line, of today."""
    return Stored(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        command=_command(sys.argv),
        source=MEASURED,
        versions=versions(),
        **values,
    )


def _command(argv: Sequence[str]) -> str:
    """What to type, without paths of this machine."""
    path = Path(argv[0])
    parts = path.with_suffix("").parts
    known = [i for i, part in enumerate(parts) if part == "tools"]
    program = ".".join(parts[known[-1] :]) if known else path.stem
    return shlex.join(["python", "-m", program, *argv[1:]])


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cells_of(lines: Sequence[str]) -> Cells:
    """The cells of a Markdown table."""
    head, _, *body = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    return {"columns": head, "rows": body}


def write_stored(path: str | Path, stored: Stored) -> None:
    """Write it, in the order of the fields, without what is empty."""
    values = {"version": VERSION, **{k: v for k, v in asdict(stored).items() if v}}
    write_atomic(path, _text(values) + "\n")


def _text(value: Any, indent: str = "") -> str:
    """Strict JSON; a list of plain values is on one line."""
    inner = f"{indent} "
    if isinstance(value, dict) and value:
        pairs = (f"{json.dumps(k)}: {_text(v, inner)}" for k, v in value.items())
        return f"{{\n{inner}" + f",\n{inner}".join(pairs) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value):
        parts = (_text(v, inner) for v in value)
        return f"[\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_stored(path: Path) -> Stored:
    """The results in ``path``; ShardError naming what is wrong with it."""
    try:
        text = read_bounded(path, _MAX_BYTES).decode()
        values = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except ValueError as error:
        raise ShardError(f"{path}: not strict JSON: {error}; restore it") from None
    if not isinstance(values, dict) or values.pop("version", None) != VERSION:
        raise ShardError(f"{path}: expected an object with version {VERSION}")
    _check(path, values)
    return Stored(**values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a duplicate key among {[key for key, _ in pairs]}")
    return values


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number of JSON")


def _check(path: Path, values: Mapping[str, Any]) -> None:
    """ShardError unless ``values`` are those of a Stored."""
    texts, groups = {"date", "command", "source"}, {"systems", "real", "tables"}
    missing = texts - values.keys()
    unknown = values.keys() - texts - groups - {"versions"}
    if missing or unknown:
        what = f"no {min(missing)}" if missing else f"unknown key {min(unknown)!r}"
        raise ShardError(f"{path}: {what}; tools/results/stored.py has the keys")
    if not all(isinstance(values[name], str) and values[name] for name in texts):
        raise ShardError(f"{path}: date, command and source: expected text")
    if not _DATE.fullmatch(values["date"]):
        raise ShardError(f"{path}: date {values['date']!r}, expected YYYY-MM-DD")
    for name, table in values.get("tables", {}).items():
        width = len(table["columns"])
        for row in table["rows"]:
            if len(row) != width:
                raise ShardError(
                    f"{path}: table {name}: a row of {len(row)} cells, expected {width}"
                )
