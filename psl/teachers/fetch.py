"""A published teacher -> a checkpoint folder in the cache.

Owns what is believed of a file before it is converted, and what of a download that was
cut is used again. One process at a time fetches a teacher; others wait and find it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from psl.models.convolutional import transformers_module
from psl.teachers.audioset import audioset_classes
from psl.teachers.importing import convert, read
from psl.teachers.published import File, PublishedTeacher
from psl.weights.checkpoint import load_checkpoint
from psl.weights.files import MAX_BYTES
from psl.weights.published import Published
from psl.weights.tensors import tensors_sha256
from shards.errors import ShardError
from shards.remote.places import RetryPolicy, check_place, download, is_url, join_place
from shards.remote.transport import Stall, WrongContent
from shards.system.exits import JobError
from shards.system.files import file_sha256, open_regular, remove_folder
from shards.system.flock import try_lock
from shards.system.writing import naming_write

_log = logging.getLogger(__name__)

RETRY = RetryPolicy(attempts=5, longest_delay_seconds=8.0, stall=Stall(seconds=20.0))
"""Somebody waits, so give up within a minute or two where there is no network."""
_POLL_SECONDS = 0.2


def fetch(
    teacher: PublishedTeacher,
    home: Path,
    *,
    file: Path | None = None,
    mirror: str | None = None,
    retry: RetryPolicy = RETRY,
) -> Path:
    """The checkpoint folder of ``teacher`` in ``home``, made if need be.

    From ``file``, which is a folder if the teacher has several files, else from the
    folder at the URL ``mirror``, else from where it was published.

    Raises ValueError or ShardError if what is there is not this teacher, JobError if it
    cannot be had.
    """
    if teacher.setting:
        raise ValueError(
            f"{teacher.name}: comes with code of its own, which is not run unasked; "
            f"transformers fetches it for 'teacher={teacher.setting}'"
        )
    place = _folder_url(mirror or teacher.url)
    if len(teacher.files) > 1:
        transformers_module(f"at {teacher.url}")
    with _alone(home, teacher.name):
        target = home / teacher.name
        if _is_whole(target):
            return target
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise ShardError(f"{target}: expected a folder, or nothing; remove it")
        if file is not None:
            _convert(teacher, _given(teacher, file), target)
        else:
            _fetch_and_convert(teacher, target, place, retry)
    return target


def _fetch_and_convert(
    teacher: PublishedTeacher, target: Path, place: str, retry: RetryPolicy
) -> None:
    """Downloads stay where the network fails, and go where the content is wrong."""
    folder = target.with_name(f".{teacher.name}.download")
    try:
        folder.mkdir(exist_ok=True)
        for part in teacher.files:
            url = join_place(place, part.name)
            _download(url, folder / part.name, part, retry)
        single = len(teacher.files) == 1
        _convert(teacher, folder / teacher.files[0].name if single else folder, target)
    except (ShardError, ValueError) as error:
        if folder.exists() and not isinstance(error, _Elsewhere):
            shutil.rmtree(folder)
        raise type(error)(f"{error}{_by_hand(teacher)}") from None
    except JobError as error:
        raise JobError(f"{error}{_by_hand(teacher)}") from None
    shutil.rmtree(folder)


def _folder_url(place: str) -> str:
    url = check_place(place)
    if not is_url(url):
        raise ValueError(f"{place}: expected a URL; for a file here use --file")
    return url


class _Elsewhere(ShardError):
    """The server has no such file; what came from it before is good."""


def _by_hand(teacher: PublishedTeacher) -> str:
    what = teacher.files[0].name if len(teacher.files) == 1 else "a folder"
    names = ", ".join(file.name for file in teacher.files)
    return (
        f"; or get {names} from {teacher.url} in another way and run: psl teachers "
        f"fetch {teacher.name} --file {'PATH/' + what if what != 'a folder' else 'DIR'}"
    )


@contextlib.contextmanager
def _alone(home: Path, name: str) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    path = home / f".{name}.lock"
    with naming_write(path):
        home.mkdir(parents=True, exist_ok=True)
        stream = open(path, "ab")  # noqa: SIM115 - closed below
    with stream:
        waiting = False
        while not (got := try_lock(stream)):
            if got is None:
                raise JobError(
                    f"{home}: its file system has no locks; choose a folder on a local "
                    "disk with --cache"
                )
            if not waiting:
                _log.info("another process fetches %s; waiting for it", name)
            waiting = True
            time.sleep(_POLL_SECONDS)
        yield


def _is_whole(target: Path) -> bool:
    """Whether the checkpoint is there and its bytes are those that were written."""
    if not target.exists():
        return False
    try:
        load_checkpoint(target)
    except (ShardError, ValueError) as error:
        _log.warning("%s; making it again", error)
        return False
    return True


def _download(url: str, path: Path, file: File, retry: RetryPolicy) -> None:
    """Have ``file`` at ``path``; with a hash to check it, what was cut goes on."""
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    if file.sha256 is None:  # the rest could be another version's
        part.unlink(missing_ok=True)
    is_resumed = part.exists() and part.stat().st_size > 0
    if not (is_resumed and file_sha256(part) == file.sha256):
        try:
            _receive(url, part, file, retry)
            _check(part, file, url)
        except (ShardError, WrongContent) as error:
            if isinstance(error, _Elsewhere):
                raise
            part.unlink(missing_ok=True)
            if is_resumed:  # the first part may have been another version's
                _download(url, path, file, retry)
                return
            if isinstance(error, WrongContent):
                raise ShardError(
                    f"{url}: {error}, expected {file.num_bytes} bytes"
                ) from None
            raise
    os.replace(part, path)


def _receive(url: str, part: Path, file: File, retry: RetryPolicy) -> None:
    """Append to ``part`` what it lacks."""
    size = f" ({file.num_bytes / 1e6:.0f} MB)" if file.num_bytes else ""
    _log.info("fetching %s%s", url, size)
    with naming_write(part), open(part, "ab") as stream:
        bar = tqdm.wrapattr(
            stream,
            "write",
            total=file.num_bytes,
            initial=stream.tell(),
            disable=None,  # where nobody looks
        )
        with bar as counted:
            watched: Any = counted
            try:
                download(url, watched, file.num_bytes, retry=retry, max_bytes=MAX_BYTES)
            except ShardError as error:
                raise _Elsewhere(str(error)) from None
        stream.flush()
        os.fsync(stream.fileno())


def _check(path: Path, file: File, where: str) -> None:
    """ShardError unless the file is the one of the table, as far as that says."""
    with open_regular(path, max_bytes=MAX_BYTES) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(200)
        if not start:
            raise ShardError(f"{where}: is empty")
        if start.lstrip().startswith(b"<"):
            raise ShardError(f"{where}: is a web page and not the file")
        if start.startswith(b"version https://git-lfs"):
            raise ShardError(f"{where}: is a Git LFS pointer and not the file itself")
        if file.num_bytes not in (None, size):
            raise ShardError(f"{where}: {size} bytes, expected {file.num_bytes}")
        found = file_sha256(stream)
    if file.sha256 is None:
        _log.info("%s: sha256 %s, not checked: none is known", where, found)
    elif found != file.sha256:
        raise ShardError(f"{where}: sha256 is {found}, expected {file.sha256}")


def _given(teacher: PublishedTeacher, path: Path) -> Path:
    """``path``, if it has the files of ``teacher``, or its tensors in another form."""
    if len(teacher.files) > 1:
        for file in teacher.files:
            _check(path / file.name, file, str(path / file.name))
        return path
    try:
        _check(path, teacher.files[0], str(path))
    except ShardError as error:
        if "sha256 is" not in str(error) or teacher.tensors_sha256 is None:
            raise ShardError(
                f"{error}; give the file {teacher.files[0].name} as it is at "
                f"{teacher.url}, or use psl import_checkpoint for another"
            ) from None
        found = tensors_sha256(read(str(path)).weights)
        if found != teacher.tensors_sha256:
            raise ShardError(
                f"{error}, and its tensors are others, too; give the file "
                f"{teacher.files[0].name} as it is at {teacher.url}, or use psl "
                "import_checkpoint for another"
            ) from None
        _log.info("%s: the tensors of %s in another file", path, teacher.name)
    return path


def _convert(teacher: PublishedTeacher, source: Path, target: Path) -> None:
    """Make the checkpoint folder ``target``, which appears whole."""
    published = read(str(source))
    _check_is(teacher, published, str(source))
    remove_folder(target)  # a damaged one
    convert(
        published,
        target,
        audioset_classes(),
        source=f"{teacher.name}: {teacher.url}",
        where=str(source),
        advice=f"give the file that {teacher.name} was published in",
    )


def _check_is(teacher: PublishedTeacher, published: Published, where: str) -> None:
    """ValueError if a file without a known hash is another teacher's."""
    config = published.config
    found: dict[str, Any] = {"model": config.name}
    found |= {name: getattr(config, name, None) for name in teacher.settings}
    found["sample_rate"] = config.front_end.sample_rate
    expected = {"model": teacher.family, **teacher.settings}
    expected["sample_rate"] = teacher.sample_rate
    if found != expected:
        raise ValueError(
            f"{where}: holds {_words(found)}; expected {_words(expected)} for "
            f"{teacher.name}"
        )


def _words(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
