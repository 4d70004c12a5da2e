"""Files and folders that appear whole or not at all, and files that others name.

Owns the write-aside, fsync, rename sequence used for everything under a final name,
the one by which only the first of several writers gives a file its content, what is
said when a disk is full, and the rules for reading what data from elsewhere names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from shards.errors import ShardError
from shards.system.flock import try_lock
from shards.system.writing import TEMPORARY_MARK, naming_write

LEFT_SECONDS = 86400.0
"""Where locks cannot tell, what was not written for so long has no writer."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name ``path`` only when the block ends well.

    Raises OSError naming ``path`` if it cannot be written.
    """
    path = Path(path)
    with naming_write(path), _open_aside(path) as (aside, stream):
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
    with naming_write(path), _open_aside(path) as (aside, stream):
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


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8) in one rename."""
    with open_atomic(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def folder_atomic(path: str | Path) -> Iterator[Path]:
    """A new folder that takes the name ``path`` only when the block ends well.

    A folder of that name is replaced, and what killed writers left next to it is
    removed. The files in the block are to be written by write_synced.
    """
    path = Path(path)
    aside = _aside(path)
    with naming_write(path):
        remove_leftovers(path.parent)
        try:
            with _new_locked_folder(aside):
                yield aside
                sync_folder(aside)
                remove_folder(path)
                os.rename(aside, path)
                sync_folder(path.parent)
        except OSError as error:  # tell the name that the user knows
            if str(error.filename).startswith(f"{aside}/"):
                error.filename = f"{path}{str(error.filename).removeprefix(str(aside))}"
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_synced(path: str | Path, data: bytes | str) -> None:
    """Write a file of a folder that is not yet under its final name."""
    with naming_write(Path(path)), open(path, "wb") as stream:
        stream.write(data.encode() if isinstance(data, str) else data)
        stream.flush()
        os.fsync(stream.fileno())


def remove_folder(path: Path) -> None:
    """Delete a folder, if there is one, so that a kill halfway leaves no part of it."""
    if path.exists():
        doomed = _aside(path)
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def _aside(path: Path) -> Path:
    """A new name next to ``path``, for what is to take its name, or to go."""
    # Random, because process ids repeat among the nodes that share a folder.
    return path.with_name(f".{path.name}{TEMPORARY_MARK}{secrets.token_hex(8)}")


@contextlib.contextmanager
def _open_aside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file next to ``path``, to take its name; gone if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with _open_locked(aside) as stream:
            yield aside, stream
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def sync_folder(folder: str | Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: str | Path) -> None:
    """Delete what killed writers left in ``folder``; what is being written stays.

    Where a file system has no locks (some network ones), so does all that is younger
    than a day; and, where we may not remove it, what another user left.
    """
    for path in Path(folder).glob(f".*{TEMPORARY_MARK}*"):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(path.lstat().st_mode):
                with _locked_folder(path) as locked:
                    if _is_left(path, locked):
                        shutil.rmtree(path)
            else:
                with open(path, "r+b") as stream:
                    if _is_left(path, try_lock(stream)):
                        path.unlink()


def _is_left(path: Path, locked: bool | None) -> bool:
    """Whether the writer of ``path`` is dead, its lock being free, or unknown: None."""
    if locked is not None:
        return locked
    now = file_system_time(path.parent)
    return now is not None and now - path.lstat().st_mtime > LEFT_SECONDS


def _open_locked(path: Path) -> BinaryIO:
    """A new file whose lock tells remove_leftovers that its writer lives."""
    while True:
        stream = open(path, "w+b")  # noqa: SIM115 - the caller closes it
        while try_lock(stream) is False:  # remove_leftovers looks at it
            time.sleep(0.001)
        if os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()  # it was removed between open and lock


@contextlib.contextmanager
def _new_locked_folder(path: Path) -> Iterator[None]:
    """Make a folder that remove_leftovers leaves alone while the block runs."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as lock:
            try:
                locked = lock.enter_context(_locked_folder(path))
            except FileNotFoundError:  # removed before it was locked
                continue
            if locked is not False and path.exists():
                yield
                return


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[bool | None]:
    """Lock a folder for the length of the block, which tells that its writer lives.

    Gives what try_lock does.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield try_lock(handle)
    finally:
        os.close(handle)


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
    return open_regular(path, max_bytes=max_bytes)


def plain_size(folder: str | Path, name: str) -> int | None:
    """The length of a file below ``folder``, None if there is none; nothing is opened.

    Raises ShardError for one that open_plain refuses.
    """
    path = Path(folder, name)
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            _check_leads_below(Path(folder), path)
            status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def read_plain(folder: str | Path, name: str, *, max_bytes: int) -> bytes:
    """The bytes of a file below ``folder``; raises what open_plain raises."""
    with open_plain(folder, name, max_bytes=max_bytes) as stream:
        return _read_all(stream, Path(folder, name), max_bytes)


def open_regular(path: str | Path, *, max_bytes: int | None = None) -> BinaryIO:
    """A plain file that the user named, open to be read; links are followed.

    Never blocks on a pipe. Raises what open_plain raises.
    """
    try:
        return _open_bounded(Path(path), max_bytes, follow=True)
    except OSError as error:
        _refuse(Path(path), error)


def read_bounded(path: str | Path, max_bytes: int) -> bytes:
    """A whole small file that the user named; links are followed.

    Raises ShardError if it is missing, special, unreadable or too long.
    """
    with open_regular(path, max_bytes=max_bytes) as stream:
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


def file_sha256(file: str | Path | BinaryIO) -> str:
    """Hex SHA-256 of a file, read in blocks of 1 MiB; one that is open, from its start.

    Raises FileNotFoundError, other OSErrors, and ShardError for a pipe or device.
    """
    if isinstance(file, (str, Path)):
        with _open_bounded(Path(file), None, follow=True) as stream:
            return file_sha256(stream)
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_of(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()
