"""The files of a cache folder: their names, modes and locks, and room for more.

Owns the rules that make the folder all the state there is:

- ``<sha256>`` is a whole shard, read-only; its atime is its last use, its mtime is left
  alone. Its name is a claim: each process checks the content before its first use.
  Or it is a copy of one, with a name and a check of its own (copies.py).
- ``<sha256>.<bytes>.part`` is one on its way. Its name reserves its final size.
- A lock (flock) on either means that it is in use: shared by readers, exclusive by the
  one that downloads. The kernel drops it when the last descriptor or memory map goes.
- ``.lock`` is held while room is made and while a part takes its final name.
- ``.wanted`` is touched by a reader that waits for room: all drop their idle maps.

The mode of the folder says who shares it: who may read the folder may read the shards
in it, who may write the folder may add and remove them. No link in it is followed.

Anything else in the folder is not ours and left alone. flock wants a local disk, or a
network file system that passes locks on.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.system.exits import JobError
from shards.system.flock import try_lock
from shards.system.writing import naming_write

LOCK_NAME = ".lock"
WANTED_NAME = ".wanted"

_OURS = re.compile(r"([0-9a-f]{64})(?:\.(\d+)\.part)?")
_POLL_SECONDS = 0.005
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class _Entry:
    """A file of the cache."""

    path: Path
    num_bytes: int
    """On disk, or reserved."""
    used: float
    """When it was last used, s."""


def part_path(folder: Path, sha256: str, num_bytes: int) -> Path:
    """The part file of a shard."""
    return folder / f"{sha256}.{num_bytes}.part"


@contextlib.contextmanager
def locked(folder: Path, seconds: float) -> Iterator[None]:
    """Exclusive lock on the folder, for short critical sections.

    JobError after ``seconds``, or where the file system has no locks.
    """
    path = folder / LOCK_NAME
    with naming_write(path, "to the cache"):
        folder.mkdir(parents=True, exist_ok=True)
        stream = _open_lock(path)
    deadline = Deadline(str(path))
    with stream:
        while not (got := try_lock(stream)):
            if got is None:
                raise JobError(
                    f"{folder}: its file system has no locks, which a cache needs; "
                    "choose a folder on a local disk (loader.cache)"
                )
            deadline.check(seconds, "a process that hangs holds it; end that process")
            time.sleep(_POLL_SECONDS)
        yield


def _open_lock(path: Path) -> BinaryIO:
    """The lock file of a folder, which all who share that may lock."""
    while True:
        try:
            return open_safely(path, os.O_RDWR)
        except PermissionError:  # another user's; reading is enough for a local disk
            return open_safely(path, os.O_RDONLY)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                return open_safely(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)


def open_safely(path: Path, flags: int) -> BinaryIO:
    """A plain file of the cache; a new one has the mode that the folder implies.

    Raises JobError if it is a link, pipe or device, which is never followed or read.
    """
    writes = flags & os.O_ACCMODE == os.O_RDWR
    try:
        handle = os.open(path, flags | _SAFE, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise JobError(
                f"{path}: a link, expected a plain file; remove it"
            ) from None
        raise error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise JobError(f"{path}: not a plain file; remove it")
    if flags & os.O_EXCL:
        os.fchmod(handle, shared_mode(path.parent) & 0o666)
    return os.fdopen(handle, "r+b") if writes else os.fdopen(handle, "rb")


def shared_mode(folder: Path) -> int:
    """The permissions of a folder, which decide those of the files in it."""
    return stat.S_IMODE(folder.stat().st_mode)


def note_wanted(folder: Path) -> None:
    """Ask all who use the folder to drop their idle maps."""
    path = folder / WANTED_NAME
    try:
        with open_safely(path, os.O_RDWR | os.O_CREAT | os.O_EXCL):
            pass
    except FileExistsError:
        with contextlib.suppress(PermissionError):  # another user's: no great loss
            os.utime(path, follow_symlinks=False)


def make_room(folder: Path, num_bytes: int, limit_bytes: int) -> bool:
    """Remove what is least recently used until ``num_bytes`` fit. Under ``locked``.

    False, and nothing removed, if too much is in use, or not ours to remove.
    """
    entries = sorted(_entries(folder), key=lambda entry: entry.used)
    excess = sum(entry.num_bytes for entry in entries) + num_bytes - limit_bytes
    with contextlib.ExitStack() as locks:
        idle = []
        for entry in entries:
            if excess <= 0:
                break
            with contextlib.suppress(FileNotFoundError, PermissionError):
                stream = locks.enter_context(open_safely(entry.path, os.O_RDONLY))
                if may_remove(entry.path) and try_lock(stream):
                    idle.append(entry.path)
                    excess -= entry.num_bytes
        if excess <= 0:
            for path in idle:
                path.unlink(missing_ok=True)
    return excess <= 0


def may_remove(path: Path) -> bool:
    """Whether this user may remove a file: in /tmp and its kind, only its owner may."""
    folder, user = path.parent.stat(), os.geteuid()
    owner = user in (0, folder.st_uid, path.lstat().st_uid)
    return os.access(path.parent, os.W_OK) and (
        owner or not folder.st_mode & stat.S_ISVTX
    )


def _entries(folder: Path) -> Iterator[_Entry]:
    for path in folder.iterdir():
        if match := _OURS.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                size = status.st_size if match[2] is None else int(match[2])
                yield _Entry(path, size, status.st_atime)


def open_whole(path: Path, num_bytes: int) -> BinaryIO | None:
    """A file of the cache with a shared lock, as the most recently used, or None.

    One of another length, which somebody has cut, is removed. What it holds is not
    looked at.
    """
    try:
        stream = open_safely(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    status = os.fstat(stream.fileno())
    if try_lock(stream, shared=True) and os.fstat(stream.fileno()).st_nlink:
        if status.st_size == num_bytes:
            with contextlib.suppress(PermissionError):  # another user's
                os.utime(stream.fileno(), ns=(time.time_ns(), status.st_mtime_ns))
            return stream
        remove_damaged(path, f"{status.st_size} bytes, expected {num_bytes}")
    stream.close()
    return None


def remove_damaged(path: Path, found: str) -> None:
    """Remove a shard that is not what its name says; JobError if we may not."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        raise JobError(
            f"{path}: {found}; another user has to remove it, or choose another "
            "folder (loader.cache)"
        ) from None


def open_part(path: Path) -> BinaryIO | None:
    """A part of ours, new or left by a killed process, locked; None if it is taken.

    Under ``locked``. What another user has left is removed, as they could still write
    to it.
    """
    while True:
        try:
            part = open_safely(path, os.O_RDWR)
        except PermissionError:
            part = open_safely(path, os.O_RDONLY)
        except FileNotFoundError:
            with naming_write(path, "to the cache"):
                part = open_safely(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if not try_lock(part):
            part.close()
            return None
        status = os.fstat(part.fileno())
        if status.st_uid == os.geteuid() and status.st_nlink == 1 and part.writable():
            part.seek(0, os.SEEK_END)
            return part
        with part:
            remove_damaged(path, "left unfinished by another user")


def size_of(path: Path) -> int | None:
    """Bytes in a file, None if there is none."""
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
