"""The file of corrections: what people said of parts of clips, line by line.

Owns its form. It is JSON lines. The first line has ``psl_corrections``: 1. Each further
one has ``id`` (from 1), ``time`` (ISO 8601) and ``action``. For ``decided`` it has the
clip's ``key``, ``start`` and ``end`` in seconds, and ``classes``: true or false by mid;
for ``skipped`` the same without classes; for ``undone`` the ``id`` of a line as ``of``.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shards.errors import ShardError
from shards.system.files import read_bounded, sha256_of

_log = logging.getLogger(__name__)

VERSION = 1
MAX_BYTES = 1 << 30
Action = Literal["decided", "skipped", "undone"]


@dataclass(frozen=True)
class Line:
    """A line of the file, after the first."""

    id: int
    time: str
    action: Action
    key: str = ""
    start: float = 0.0
    """Seconds from the first sample of the clip."""
    end: float = 0.0
    classes: Mapping[str, bool] = field(default_factory=dict)
    """By mid."""
    of: int = 0
    """The line that is undone."""

    def to_json(self) -> str:
        """The line, with its end."""
        values: dict[str, Any] = {"id": self.id, "time": self.time}
        values["action"] = self.action
        if self.action == "undone":
            values["of"] = self.of
        else:
            values |= {"key": self.key, "start": self.start, "end": self.end}
        if self.action == "decided":
            values["classes"] = dict(self.classes)
        return json.dumps(values) + "\n"

    def check(self, where: str) -> None:
        """ShardError if it could not be read again."""
        _line(json.loads(self.to_json()), where)


@dataclass(frozen=True)
class Corrections:
    """What holds of a file: decisions that were not undone, in order."""

    where: str
    decisions: tuple[Line, ...]

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of what the decisions say."""
        said = [
            [d.key, d.start, d.end, sorted(d.classes.items())] for d in self.decisions
        ]
        return sha256_of(json.dumps(said).encode())


def head_line(**facts: Any) -> str:
    """The first line of a file; ``facts`` are for people."""
    return json.dumps({"psl_corrections": VERSION, **facts}, allow_nan=False) + "\n"


def read_corrections(path: str | Path) -> Corrections:
    """The decisions of a file of corrections.

    A last line that a killed writer left unfinished is left out, with a warning. Raises
    ShardError naming the line if one is not of this form.
    """
    data = read_bounded(path, MAX_BYTES)
    lines, whole = parse_lines(data, str(path))
    if whole < len(data):
        _log.warning("%s: its last line was not finished, and is left out", path)
    return Corrections(str(path), standing(lines))


def standing(lines: list[Line]) -> tuple[Line, ...]:
    """The decisions that were not undone."""
    undone = {line.of for line in lines if line.action == "undone"}
    return tuple(
        line for line in lines if line.action == "decided" and line.id not in undone
    )


def parse_lines(data: bytes, where: str) -> tuple[list[Line], int]:
    """The lines of a file, and how many of its bytes they are with their ends.

    Fewer than there are, if the last line is not finished.
    """
    whole = data.rfind(b"\n") + 1
    rows = data[:whole].split(b"\n")[:-1]
    if not rows:
        raise ShardError(f"{where}: no corrections; expected a file of psl review")
    head = _object(rows[0], where, 1)
    if head.get("psl_corrections") != VERSION:
        raise ShardError(
            f"{where}: line 1 has psl_corrections = {head.get('psl_corrections')!r}; "
            f"expected a file of psl review, of version {VERSION}"
        )
    lines: list[Line] = []
    for number, row in enumerate(rows[1:], start=2):
        lines.append(_line(_object(row, where, number), f"{where}: line {number}"))
        if lines[-1].id != len(lines):
            raise ShardError(
                f"{where}: line {number} has id {lines[-1].id}, expected {len(lines)}; "
                "lines are only ever added"
            )
    return lines, whole


def _object(row: bytes, where: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(row)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ShardError(f"{where}: line {number} is no JSON object; fix or remove it")
    return found


def _line(found: dict[str, Any], where: str) -> Line:
    """ShardError unless the object is a line of one of the three kinds."""
    id_, time, action = (found.get(name) for name in ("id", "time", "action"))
    if type(id_) is not int or not isinstance(time, str):
        raise ShardError(f"{where}: expected an id and a time")
    if action == "undone":
        if type(of := found.get("of")) is not int or not 0 < of < id_:
            raise ShardError(f"{where}: undone of {of!r}; expected the id of a line")
        return Line(id_, time, "undone", of=of)
    if action not in ("decided", "skipped"):
        raise ShardError(
            f"{where}: action {action!r}; expected decided, skipped or undone"
        )
    key: Any = found.get("key")
    start: Any = found.get("start")
    end: Any = found.get("end")
    numbers = all(
        type(value) in (int, float) and math.isfinite(value) for value in (start, end)
    )
    if not isinstance(key, str) or not numbers or not 0 <= start < end:
        raise ShardError(
            f"{where}: key {key!r} from {start!r} to {end!r} s; expected a part of a "
            "clip"
        )
    classes = found.get("classes", {})
    if not isinstance(classes, dict) or not all(
        type(said) is bool for said in classes.values()
    ):
        raise ShardError(f"{where}: classes must be true or false by mid")
    if (action == "decided") != bool(classes):
        raise ShardError(f"{where}: {action} with {len(classes)} classes")
    return Line(id_, time, action, key, float(start), float(end), classes)
