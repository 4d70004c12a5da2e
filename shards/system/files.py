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
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

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


def open_plain(
    folder: str | Path, name: str, *, max_bytes: int | None = None
) -> BinaryIO:
    """The plain file ``name`` below ``folder``, open to be read; for names from others.

    Never blocks on a pipe, and never follows a name or a link out of ``folder``; only
    the blobs folder of a Hugging Face cache, which all its files link into, may be
    elsewhere. ``name`` is relative, its parts separated by ``/``.

    Raises ShardError for a file that is missing, special, elsewhere or longer than
    ``max_bytes``, and other OSErrors, such as EIO, as they are.
    """
    path = Path(folder, name)
    if not _is_below(name):
        raise ShardError(
            f"{folder}: names {name!r}, expected a file below this folder; restore or "
            "remove what names it"
        )
    try:
        if "/" not in name:
            with contextlib.suppress(OSError):  # a link: where does it lead?
                return _open_bounded(path, max_bytes, follow=False)
        _check_leads_below(Path(folder), path)
    except OSError as error:
        _refuse(path, error)
    return _open_named(path, max_bytes)


def read_plain(folder: str | Path, name: str, *, max_bytes: int) -> bytes:
    """The bytes of a file below ``folder``; raises what open_plain raises."""
    with open_plain(folder, name, max_bytes=max_bytes) as stream:
        return _read_all(stream, Path(folder, name), max_bytes)


def read_bounded(path: str | Path, max_bytes: int) -> bytes:
    """A whole small file that the user named; links are followed.

    Raises ShardError if it is missing, special, unreadable or too long.
    """
    with _open_named(Path(path), max_bytes) as stream:
        return _read_all(stream, Path(path), max_bytes)


def _is_below(name: str) -> bool:
    """Whether a relative name leads into its folder, links aside."""
    parts = name.split("/")
    return "\0" not in name and not {"", ".", ".."} & set(parts)


def _check_leads_below(folder: Path, path: Path) -> None:
    """ShardError if ``path`` is elsewhere than below ``folder``, its links followed."""
    home, end = folder.resolve(), path.resolve(strict=True)
    homes = [home]
    for parent in folder.absolute().parents:  # models--a--b/snapshots/REVISION
        if parent.name == "snapshots":
            homes.append((parent.parent / "blobs").resolve())
    if not any(end.is_relative_to(home) for home in homes):
        raise ShardError(
            f"{path}: a link to {end}, expected a file below {home}; put the file "
            "itself there"
        )


_BAD_PATH = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENXIO,
    errno.ENODEV,
)
"""Errors that running again does not change, unlike EIO or ESTALE."""


def _refuse(path: Path, error: OSError) -> NoReturn:
    """Raise a ShardError for a path that is wrong, else ``error`` itself."""
    if error.errno not in _BAD_PATH:
        raise error
    raise ShardError(
        f"{path}: {error.strerror}; check the path, or restore the file"
    ) from None


def _open_named(path: Path, max_bytes: int | None) -> BinaryIO:
    """A plain file; ShardError for a path that is wrong."""
    try:
        return _open_bounded(path, max_bytes, follow=True)
    except OSError as error:
        _refuse(path, error)


def _open_bounded(path: Path, max_bytes: int | None, *, follow: bool) -> BinaryIO:
    """A plain file of at most ``max_bytes``, else ShardError. A pipe does not block."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    stream = None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ShardError(f"{path}: not a plain file; restore it")
        if max_bytes is not None and status.st_size > max_bytes:
            raise ShardError(
                f"{path}: {status.st_size} bytes, expected {max_bytes} at most"
            )
        stream = os.fdopen(handle, "rb")
        return stream
    finally:
        if stream is None:
            os.close(handle)


def _read_all(stream: BinaryIO, path: Path, max_bytes: int) -> bytes:
    """All bytes of ``stream``; ShardError if it grew beyond ``max_bytes``."""
    size = os.fstat(stream.fileno()).st_size
    data = stream.read(min(size, max_bytes) + 1)
    if len(data) > size:  # it is being written, or a file of /proc, which has no size
        raise ShardError(f"{path}: grew while it was read; restore it")
    return data


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
