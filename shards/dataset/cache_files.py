"""The files of a cache folder: their names, their locks, and room for more.

Owns the rules that make the folder all the state there is:

- ``<sha256>`` is a whole, checked shard; its mtime is its last use.
- ``<sha256>.<bytes>.part`` is one on its way. Its name reserves its final size.
- A lock (flock) on either means that it is in use: shared by readers, exclusive by the
  one that downloads. The kernel drops it when the last descriptor or memory map goes.
- ``.lock`` is held while room is made and while a part takes its final name.
- ``.wanted`` is touched by a reader that waits for room: all drop their idle maps.

Anything else in the folder is not ours and left alone. flock wants a local disk, or a
network file system that passes locks on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.system.exits import JobError

LOCK_NAME = ".lock"
WANTED_NAME = ".wanted"

_OURS = re.compile(r"([0-9a-f]{64})(?:\.(\d+)\.part)?")
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class _Entry:
    """A file of the cache."""

    path: Path
    num_bytes: int
    """On disk, or reserved."""
    used: float


def part_path(folder: Path, sha256: str, num_bytes: int) -> Path:
    """The part file of a shard."""
    return folder / f"{sha256}.{num_bytes}.part"


@contextlib.contextmanager
def locked(folder: Path, seconds: float) -> Iterator[None]:
    """Alone among all processes; for moments only. JobError after ``seconds``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    deadline = Deadline(str(path))
    with open(path, "ab") as stream:
        while not try_lock(stream, fcntl.LOCK_EX):
            deadline.check(seconds, "a process that hangs holds it; end that process")
            time.sleep(_POLL_SECONDS)
        yield


def make_room(folder: Path, num_bytes: int, limit_bytes: int) -> bool:
    """Remove what is least recently used until ``num_bytes`` fit. Under ``locked``.

    False, and nothing removed, if too much is in use.
    """
    entries = sorted(_entries(folder), key=lambda entry: entry.used)
    excess = sum(entry.num_bytes for entry in entries) + num_bytes - limit_bytes
    with contextlib.ExitStack() as locks:
        idle = []
        for entry in entries:
            if excess <= 0:
                break
            with contextlib.suppress(FileNotFoundError):
                stream = locks.enter_context(open(entry.path, "r+b"))
                if try_lock(stream, fcntl.LOCK_EX):
                    idle.append(entry.path)
                    excess -= entry.num_bytes
        if excess <= 0:
            for path in idle:
                path.unlink(missing_ok=True)
    return excess <= 0


def _entries(folder: Path) -> Iterator[_Entry]:
    for path in folder.iterdir():
        if match := _OURS.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                size = status.st_size if match[2] is None else int(match[2])
                yield _Entry(path, size, status.st_mtime)


def open_whole(path: Path, num_bytes: int) -> BinaryIO | None:
    """A file of the cache with a shared lock, as the most recently used, or None."""
    try:
        stream = open(path, "r+b")
    except FileNotFoundError:
        return None
    status = os.fstat(stream.fileno())
    if try_lock(stream, fcntl.LOCK_SH) and os.fstat(stream.fileno()).st_nlink:
        if status.st_size == num_bytes:
            os.utime(stream.fileno())
            return stream
        path.unlink(missing_ok=True)  # not ours to trust: it was cut by someone
    stream.close()
    return None


def try_lock(stream: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


class Deadline:
    """A wait that ends with an error when nothing changes for too long."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since = time.monotonic()
        self._progress: object = None

    def check(self, seconds: float, why: str, *, progress: object = None) -> None:
        """JobError if ``progress`` has been the same for ``seconds``."""
        now = time.monotonic()
        if progress != self._progress:
            self._since, self._progress = now, progress
        if now - self._since > seconds:
            raise JobError(f"{self._what}: waited {seconds:g} seconds, but {why}")
