"""The ledger of a download: a line of JSON for each segment that was tried.

Owns its form. Lines are only ever added; the last of a segment counts. Whether audio is
here, its file tells: the ledger says why it is not, and what it cost.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self, get_args

from shards.downloading.wanted import Cut
from shards.errors import ShardError
from shards.system.exits import JobError
from shards.system.flock import try_lock
from shards.system.writing import naming_write

NAME = "ledger.jsonl"
Status = Literal["done", "gone", "failed"]
"""``gone``: trying again does not help. ``failed``: it may."""


@dataclass(frozen=True)
class Record:
    """What became of one segment."""

    file: str
    """Name of its file, whether it is here or not."""
    status: Status
    reason: str = ""
    """Why it is not here, or how much of it is."""
    bytes: int = 0
    """Fetched for it; of a video with several segments, its share."""
    seconds: float = 0.0
    """That took."""


def read_ledger(path: Path) -> dict[str, Record]:
    """The last record of each segment, by the file's name; none where no ledger is.

    A last line that a kill cut is passed over. Raises ShardError naming the line for
    anything else that is no record.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    records = {}
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        if line.strip():
            record = _parse(line, f"{path}: line {number}")
            records[record.file] = record
    return records


def _parse(line: bytes, where: str) -> Record:
    try:
        fields = json.loads(line)
        record = Record(
            str(fields["file"]),
            fields["status"],
            str(fields.get("reason", "")),
            int(fields.get("bytes", 0)),
            float(fields.get("seconds", 0)),
        )
        if record.status in get_args(Status):
            return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise ShardError(
        f"{where}: not a record of a download: {line[:60]!r}; remove the line (the "
        "segment is then tried again, unless its file is here)"
    )


class Ledger:
    """The ledger, open to be added to, by one process at a time; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Raises JobError if another process downloads into ``folder``."""
        self._path = folder / NAME
        with naming_write(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._stream: BinaryIO = open(self._path, "a+b", buffering=0)  # noqa: SIM115
        if try_lock(self._stream) is False:
            self._stream.close()
            raise JobError(
                f"{folder}: another process downloads into it; wait for it, or choose "
                "another --out"
            )
        self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        """Cut off what a killed writer left of a line."""
        size = self._stream.seek(0, os.SEEK_END)
        start = max(0, size - (1 << 16))
        self._stream.seek(start)
        tail = self._stream.read(size - start)
        if tail and not tail.endswith(b"\n"):
            with naming_write(self._path):
                self._stream.truncate(start + tail.rfind(b"\n") + 1)

    def add(self, records: Iterable[tuple[Cut, Record]]) -> None:
        """Add lines, in one write."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        lines = ""
        for cut, record in records:
            where = {"key": cut.key, "id": cut.clip_id, "start": cut.start_seconds}
            where["end"] = cut.end_seconds
            lines += json.dumps({**where, **asdict(record), "time": now}) + "\n"
        with naming_write(self._path):
            data = lines.encode()
            while data:
                data = data[self._stream.write(data) or 0 :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
