"""What users read when a file cannot be written, and what killed writers leave."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.dataset.writer import Row, write_shard
from shards.system.claims import Claims
from shards.system.exits import one_line
from shards.system.files import (
    create_atomic,
    folder_atomic,
    open_atomic,
    remove_leftovers,
    write_atomic,
    write_synced,
)
from tests.learning import REPOSITORY

Write = Callable[[Path], object]


def _write_folder(path: Path) -> None:
    with folder_atomic(path) as aside:
        write_synced(aside / "weights", b"x" * 100)


def _write_tar(path: Path) -> None:
    write_shard(path, [Row("clip", "wav", b"x" * 10000, 5000)])


def _claim(path: Path) -> None:
    with Claims(path.parent, lease_seconds=60) as claims:
        claims.take("a")


WRITES: list[Write] = [
    lambda path: write_atomic(path, "text"),
    lambda path: create_atomic(path, "text"),
    _write_folder,
    _write_tar,
    _claim,
]
IDS = ["write", "create", "folder", "tar", "claim"]


@pytest.mark.parametrize("write", WRITES, ids=IDS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_named_with_path_and_advice(
    tmp_path: Path, write: Write, number: int
) -> None:
    """The user would read "No space left on device" and search five file systems."""
    path = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        _let_writes_fail(patch, number)
        with pytest.raises(OSError) as error:
            write(path)
    assert error.value.errno == number
    line = one_line(error.value)
    assert line is not None and line.startswith(f"error: {tmp_path}")
    assert ".tmp-" not in line
    assert os.strerror(number) in line and "choose" in line and "\n" not in line


def _let_writes_fail(patch: pytest.MonkeyPatch, number: int) -> None:
    """Have writes fail with an error that names no file, as write(2) does."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, "fsync", fail)
    patch.setattr(Path, "write_text", fail)


@pytest.mark.parametrize("write", WRITES[:4], ids=IDS[:4])
def test_a_name_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, write: Write
) -> None:
    """Typos in out= or run_dir= would be a riddle."""
    (tmp_path / "file").write_bytes(b"")
    for path, advice in (
        (tmp_path / "file" / "below", "a file has the name of a folder above it"),
        (tmp_path / ("x" * 300), "choose a shorter name"),
    ):
        with pytest.raises(OSError) as error:
            write(path)
        line = one_line(error.value)
        assert line is not None and str(tmp_path) in line and advice in line


def test_an_error_of_what_is_read_meanwhile_stays_what_it_is(tmp_path: Path) -> None:
    """A missing source would be told as trouble with the output."""
    source = tmp_path / "source" / "missing"
    with pytest.raises(FileNotFoundError) as error, open_atomic(tmp_path / "out"):
        source.read_bytes()
    assert error.value.filename == str(source)
    with pytest.raises(IsADirectoryError) as folder, open_atomic(tmp_path / "out"):
        (tmp_path / "..").read_bytes()
    assert "choose" not in str(folder.value)


KILLED = """
import os, sys
from pathlib import Path
from shards.system.files import folder_atomic, open_atomic
if sys.argv[2] == "folder":
    with folder_atomic(Path(sys.argv[1]) / "average") as aside:
        (aside / "model").write_bytes(b"half")
        print("written", flush=True)
        sys.stdin.readline()
else:
    with open_atomic(Path(sys.argv[1]) / "status.json") as stream:
        stream.write(b"half")
        print("written", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(
    tmp_path: Path, kind: str
) -> None:
    """A checkpoint of 1 GB would stay forever; or one be removed while it is made."""
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert writer.stdout and writer.stdout.readline() == "written\n"
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_of_a_folder_removes_what_a_killed_one_left(
    tmp_path: Path,
) -> None:
    """psl.average holds no lock of the run, and nothing else writes there any more."""
    (tmp_path / ".average.tmp-0123").mkdir()
    (tmp_path / ".average.tmp-0123" / "model").write_bytes(b"half")
    _write_folder(tmp_path / "average")
    assert [path.name for path in tmp_path.iterdir()] == ["average"]


def test_where_there_are_no_locks_only_old_leftovers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none: a checkpoint would vanish half written."""
    monkeypatch.setattr("shards.system.files.try_lock", lambda *_: None)
    for name in (".a.tmp-1", ".b.tmp-2"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".a.tmp-1", (0, 0))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".b.tmp-2"]
