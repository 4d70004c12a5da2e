"""The file of corrections while it is being written: a line at a time, never lost.

Owns that a decision is on the disk before the page hears so, that a line is whole or
not there, and that one process at a time writes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from psl.data.corrections_file import Line, head_line, parse_lines
from shards.system.exits import JobError
from shards.system.files import create_atomic, open_regular
from shards.system.flock import try_lock
from shards.system.writing import naming_write

_log = logging.getLogger(__name__)

Part = tuple[str, float, float]
"""Key of a clip, start and end in it in seconds."""


class Store:
    """Decisions about parts of clips, in a file that only grows."""

    def __init__(self, path: str | Path, **facts: object) -> None:
        """``facts`` go into the first line of a new file.

        A line that a killed process left unfinished is cut off, with a warning. Raises
        ShardError for a file of another kind, JobError if another process writes it.
        """
        self.path = Path(path)
        if not self.path.exists():  # another process may make it at this moment
            create_atomic(self.path, head_line(**facts))
        with naming_write(self.path):
            self._stream = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        if try_lock(self._stream.fileno()) is False:
            self._stream.close()
            raise JobError(
                f"{path}: another psl review writes it; end that, or name another file "
                "with --out"
            )
        with open_regular(self.path) as stream:
            data = stream.read()
        self._lines, self._size = parse_lines(data, str(path))
        if self._size < len(data):
            _log.warning("%s: its last line was not finished, and is cut off", path)
            os.ftruncate(self._stream.fileno(), self._size)
        self._guard = threading.Lock()

    def close(self) -> None:
        """Let others write."""
        self._stream.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decide(self, part: Part, classes: Mapping[str, bool]) -> Line:
        """Append a decision; ``classes`` by mid.

        Raises ShardError for one that could not be read again, such as a part that
        ends before it starts; OSError if it cannot be written.
        """
        return self._append("decided", part, classes)

    def skip(self, part: Part) -> Line:
        """Append that a part is left undecided."""
        return self._append("skipped", part, {})

    def undo(self) -> Line | None:
        """Take the newest line back that still holds, and return it; None without."""
        with self._guard:
            held = self.held()
            if not held:
                return None
            self._write(Line(len(self._lines) + 1, _now(), "undone", of=held[-1].id))
            return held[-1]

    def held(self) -> list[Line]:
        """Decisions and skips that were not undone, in order."""
        undone = {line.of for line in self._lines if line.action == "undone"}
        return [
            line
            for line in self._lines
            if line.action != "undone" and line.id not in undone
        ]

    def _append(self, action: object, part: Part, classes: Mapping[str, bool]) -> Line:
        with self._guard:
            line = Line(
                len(self._lines) + 1,
                _now(),
                "decided" if action == "decided" else "skipped",
                *part,
                classes=dict(classes),
            )
            self._write(line)
            return line

    def _write(self, line: Line) -> None:
        line.check(f"{self.path}: id {line.id}")
        data = line.to_json().encode()
        handle = self._stream.fileno()
        with naming_write(self.path):
            try:
                os.lseek(handle, self._size, os.SEEK_SET)
                left = memoryview(data)
                while left:
                    left = left[os.write(handle, left) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, self._size)
                raise
        self._size += len(data)
        self._lines.append(line)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
