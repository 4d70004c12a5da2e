"""Tagging many files with processes, so that a run that was stopped resumes.

Owns the parts: the records of one file each, in a hidden folder next to the output,
and the output that is made of them when all files are done. A file that cannot be read
is told and counted, and the others go on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from tqdm import tqdm

from psl.tagging.outputs import SUFFIXES, Writer, one_line, open_writer
from psl.tagging.records import STDIN, Record, Settings
from shards.errors import ShardError
from shards.remote.places import is_url
from shards.system.exits import EXIT_BAD_INPUT, JobError, message_of
from shards.system.files import open_atomic, remove_folder, sha256_of, write_atomic
from shards.system.workers import Task, run_tasks

_log = logging.getLogger(__name__)

_SETTINGS_NAME = "settings.json"
PARTS_SUFFIX = ".parts"


class FileTagger(Protocol):
    """What makes the records of a file: psl.tagger.Tagger."""

    def records(
        self,
        place: str,
        settings: Settings,
        on_seconds: Callable[[float | None, float], None] = ...,
    ) -> Iterator[Record]:
        """The records of the file at ``place``; ShardError if it cannot be read.

        ``on_seconds`` hears of the length of the file, if known, and of progress.
        """

    def fingerprint(self) -> str:
        """Changes with the model."""


class Load(Protocol):
    """Opens a model: psl.load. A function of a module, as processes must find it."""

    def __call__(self, path: str, /, *, device: str | None) -> FileTagger:
        """The model at ``path``, on ``device``."""

    def __hash__(self) -> int:
        """As functions have it."""


@dataclass
class Done:
    """What became of the files."""

    failures: dict[str, str] = field(default_factory=dict)
    """Why a file could not be read, by place."""

    def check(self, num_files: int) -> None:
        """JobError with status 78 if there is a failure."""
        if not self.failures:
            return
        if num_files == 1:
            raise JobError.ending_with(
                EXIT_BAD_INPUT, next(iter(self.failures.values()))
            )
        raise JobError.ending_with(
            EXIT_BAD_INPUT,
            f"{len(self.failures)} of {num_files} files could not be read and are not "
            "in the output: see the lines above",
        )


@dataclass(frozen=True)
class Job:
    """What to tag, and how."""

    model: str
    """Run or checkpoint folder."""
    files: Mapping[str, str]
    """Places, and a short name of each."""
    settings: Settings
    kind: str
    """A key of SUFFIXES."""
    jobs: int = 1
    """Processes."""
    device: str | None = None
    """Where other processes compute; None is the GPU, if there is one."""


def tag_to_stream(job: Job, tagger: FileTagger, load: Load, stream: BinaryIO) -> Done:
    """Write the records of all files, in order, to ``stream``."""
    done = Done()
    writer = open_writer(job.kind, stream, whole=_is_whole(job.settings))
    if job.jobs == 1 or len(job.files) == 1:
        for place in job.files:
            with _noting(done, place, quiet=len(job.files) == 1):
                for record in _readable(_with_bar(tagger, place, job.settings), place):
                    writer.write(record)
    else:
        with tempfile.TemporaryDirectory(prefix="psl-tag-") as folder:
            parts = _make_parts(job, tagger, load, Path(folder), done)
            _copy(parts, writer)
    writer.close()
    return done


def tag_to_file(job: Job, tagger: FileTagger, load: Load, out: Path) -> Done:
    """Write one table of all files under the name ``out``, when all are done."""
    with _parts_folder(job, tagger, out) as folder:
        done = Done()
        parts = _make_parts(job, tagger, load, folder, done)
        if parts:
            _write_table(job, parts, out)
    return done


def tag_to_folder(job: Job, tagger: FileTagger, load: Load, out: Path) -> Done:
    """Write a table for each file into the folder ``out``, which is made if need be.

    Raises ValueError if two files would have the same name there.
    """
    names = _names_in(job)
    with _parts_folder(job, tagger, out) as folder:
        done = Done()
        parts = _make_parts(job, tagger, load, folder, done)
        for place, part in parts.items():
            _write_table(job, {place: part}, out / names[place])
    return done


def _write_table(job: Job, parts: Mapping[str, Path], out: Path) -> None:
    with open_atomic(out) as stream:
        writer = open_writer(job.kind, stream, whole=_is_whole(job.settings))
        _copy(parts, writer)
        writer.close()


def _is_whole(settings: Settings) -> bool:
    return settings.cut.window_seconds is None and not settings.cut.frames


def _names_in(job: Job) -> dict[str, str]:
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for place, short in job.files.items():
        names[place] = short + SUFFIXES[job.kind]
        other = taken.setdefault(names[place].casefold(), place)
        if other != place:
            raise ValueError(
                f"{other} and {place} would both be written as {names[place]}; tag "
                "their folder, or write one table"
            )
    return names


@contextlib.contextmanager
def _parts_folder(job: Job, tagger: FileTagger, out: Path) -> Iterator[Path]:
    """The folder of the parts, with those of the same job; gone at the end."""
    out = out.resolve()
    folder = out.with_name(f".{out.name}{PARTS_SUFFIX}")
    wanted = {"model": tagger.fingerprint(), "settings": asdict(job.settings)}
    text = json.dumps(wanted, sort_keys=True)
    noted = folder / _SETTINGS_NAME
    if folder.exists() and not (noted.exists() and noted.read_text() == text):
        remove_folder(folder)
    write_atomic(noted, text)
    yield folder
    remove_folder(folder)


def _make_parts(
    job: Job, tagger: FileTagger, load: Load, folder: Path, done: Done
) -> dict[str, Path]:
    """The part of each file that can be read, by place, in order."""
    parts = {place: folder / f"{_identity(place)}.jsonl" for place in job.files}
    left = [place for place in job.files if not parts[place].exists()]
    if job.jobs == 1 or len(left) <= 1:
        for place in left:
            with _noting(done, place, quiet=len(job.files) == 1):
                records = _with_bar(tagger, place, job.settings)
                _write_part(_readable(records, place), parts[place])
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each process
        what = (load, job.model, job.device, job.settings)
        tasks = [Task(1, _tag_part, (*what, place, parts[place])) for place in left]
        workers = min(job.jobs, len(left))
        found = run_tasks(tasks, workers, unit="file", title="tag", no_bar=None)
        for place, message in zip(left, found, strict=True):
            if message is not None:
                _fail(done, place, message)
    return {p: part for p, part in parts.items() if p not in done.failures}


def _identity(place: str) -> str:
    """Changes with the place and, of a file here, with its size and date."""
    state = ""
    if place != STDIN and not is_url(place):
        with contextlib.suppress(OSError):
            status = os.stat(place)
            state = f"{status.st_size} {status.st_mtime_ns}"
    return sha256_of(os.fsencode(f"{place}\n{state}"))[:24]


def _write_part(records: Iterator[Record], part: Path) -> None:
    with open_atomic(part) as stream:
        for record in records:
            stream.write(json.dumps(record, allow_nan=False).encode() + b"\n")


def _tag_part(
    load: Load,
    model: str,
    device: str | None,
    settings: Settings,
    place: str,
    part: Path,
) -> str | None:
    """Work of another process: a part, or why there is none."""
    tagger = _load_once(load, model, device)
    done = Done()
    with _noting(done, place, quiet=True):
        _write_part(_readable(tagger.records(place, settings), place), part)
    return done.failures.get(place)


@functools.cache
def _load_once(load: Load, model: str, device: str | None) -> FileTagger:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once
    return load(model, device=device)


class _UnreadableError(Exception):
    """A file cannot be read; says why. Not what fails where records are written."""


def _readable(records: Iterator[Record], place: str) -> Iterator[Record]:
    """``records``; _UnreadableError where making them fails because of the file."""
    try:
        yield from records
    except (ShardError, JobError, OSError) as error:
        message = message_of(error) or repr(error)
        if isinstance(error, OSError) and not error.filename:
            message = f"{place}: {message}"
        raise _UnreadableError(message) from None


@contextlib.contextmanager
def _noting(done: Done, place: str, *, quiet: bool) -> Iterator[None]:
    """Note, rather than raise, that a file cannot be read."""
    try:
        yield
    except _UnreadableError as error:
        _fail(done, place, str(error), quiet=quiet)


def _fail(done: Done, place: str, message: str, *, quiet: bool = False) -> None:
    done.failures[place] = message
    if not quiet:
        _log.warning("%s", message)


def _copy(parts: Mapping[str, Path], writer: Writer) -> None:
    for part in parts.values():
        with open(part, "rb") as stream:
            for line in stream:
                writer.write(json.loads(line))


def _with_bar(tagger: FileTagger, place: str, settings: Settings) -> Iterator[Record]:
    """The records of a file; on a terminal, with a bar in seconds of audio."""
    name = one_line(Path(place).name)
    with tqdm(unit="s", desc=name, disable=None, leave=False) as bar:

        def show(total: float | None, seconds: float) -> None:
            bar.total = None if total is None else round(total)
            bar.update(round(seconds) - bar.n)

        yield from tagger.records(place, settings, show)
