"""Files that appear whole or not at all.

Owns the write-aside, fsync, rename sequence used for every file under a final name,
and the one by which only the first of several writers gives a file its content.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.errors import ShardError

TEMPORARY_MARK = ".tmp-"
"""Files whose name holds this are leftovers of a killed writer, never read."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name ``path`` only when the block ends well."""
    path = Path(path)
    with _open_aside(path) as (aside, stream):
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        os.replace(aside, path)
    sync_folder(path.parent)


def create_atomic(path: str | Path, data: bytes | str) -> None:
    """Make ``path`` of ``data`` (text as UTF-8), unless it is there: the first wins.

    Who won, reading the file tells. Where a file system has no hard links, the last
    one wins.
    """
    path = Path(path)
    with _open_aside(path) as (aside, stream):
        stream.write(data.encode() if isinstance(data, str) else data)
        stream.flush()
        os.fsync(stream.fileno())
        try:
            os.link(aside, path)
            aside.unlink()
        except FileExistsError:
            aside.unlink()
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.replace(aside, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _open_aside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file beside ``path``, to take its name; gone if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, because process ids repeat among the nodes that share a folder.
    aside = path.with_name(f".{path.name}{TEMPORARY_MARK}{secrets.token_hex(8)}")
    try:
        with _open_locked(aside) as stream:
            yield aside, stream
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8) in one rename."""
    with open_atomic(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def sync_folder(folder: str | Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: str | Path) -> None:
    """Delete what killed writers left in ``folder``; what is being written stays.

    Where a file system has no locks (some network ones), everything stays.
    """
    for path in Path(folder).glob(f".*{TEMPORARY_MARK}*"):
        with contextlib.suppress(FileNotFoundError), open(path, "r+b") as stream:
            if _try_lock(stream):
                path.unlink()


def _open_locked(path: Path) -> BinaryIO:
    """A new file whose lock tells remove_leftovers that its writer lives."""
    while True:
        stream = open(path, "w+b")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()  # it was removed between open and lock


def _try_lock(stream: BinaryIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def file_system_time(folder: Path) -> float | None:
    """Now, s, by the clock that dates the files in ``folder``.

    A file server has its own. None where no file can be made, as on a read-only mount.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            os.utime(stream.fileno())
            return os.fstat(stream.fileno()).st_mtime
    except OSError:
        return None


def read_bounded(path: str | Path, max_bytes: int) -> bytes:
    """A whole small file. ShardError if it is none, unreadable or too long."""
    path = Path(path)
    try:
        if not path.is_file() and path.exists():  # a pipe would make us wait for ever
            raise ShardError(f"{path}: no plain file; restore it")
        with open(path, "rb") as stream:
            found = os.fstat(stream.fileno()).st_size
            if found > max_bytes:
                raise ShardError(f"{path}: {found} bytes, expected {max_bytes} at most")
            return stream.read()
    except OSError as error:
        raise ShardError(
            f"{path}: {error.strerror}; check the path, or restore the file"
        ) from None


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()
