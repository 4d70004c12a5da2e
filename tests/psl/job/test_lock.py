"""Whether a run folder is held: by heartbeats and the kernel, never by clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from psl.job import lock
from psl.job.lock import RunLock, is_alive, last_holder
from psl.job.status import report, started, write_status
from shards.system.exits import JobError
from shards.system.processes import Process

RECORD = {
    "host": "n7",
    "pid": 42,
    "boot": "another machine",
    "token": "ab",
    "beat": 1,
    "step": 77,
    "held": True,
}


def write_record(folder: Path, offset: float, **changes: object) -> None:
    """A record of another machine, by a file server whose clock is ``offset`` s off."""
    (folder / "lock").write_text(json.dumps(RECORD | changes))
    now = time.time() + offset
    os.utime(folder / "lock", (now, now))


@contextmanager
def heartbeat(folder: Path, offset: float) -> Iterator[None]:
    """A living holder on another machine."""
    stopped = threading.Event()

    def beat() -> None:
        number = 0
        while not stopped.wait(0.05):
            write_record(folder, offset, beat=(number := number + 1))

    write_record(folder, offset)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOOK_SECONDS", 1.0)


@pytest.mark.parametrize("offset", [-300.0, 0.0, 180.0])
def test_a_living_holder_elsewhere_is_running_whatever_the_clocks_say(
    tmp_path: Path, offset: float
) -> None:
    """train.sbatch would requeue a run that is being trained."""
    write_status(tmp_path, started(None, 70))
    with heartbeat(tmp_path, offset):
        assert report(tmp_path) == ("running", "at step 77, by process 42 on n7")


@pytest.mark.parametrize("offset", [-300.0, -80.0, 100.0])
def test_a_dead_holder_elsewhere_has_failed_whatever_the_clocks_say(
    tmp_path: Path, offset: float
) -> None:
    """A run whose node died would never be requeued."""
    write_status(tmp_path, started(None, 70))
    write_record(tmp_path, offset)
    state, line = report(tmp_path)
    assert state == "failed"
    assert line.startswith("killed at step 77 without reporting an error (process 42 ")


def test_where_there_are_no_locks_processes_of_one_machine_still_see_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre without flock: every run would be refused, or two share a folder."""
    monkeypatch.setattr(lock, "try_lock", lambda *_, **__: None)
    first = RunLock(tmp_path)
    assert is_alive(tmp_path)
    with pytest.raises(JobError, match=f"process {os.getpid()} on .* is running this"):
        RunLock(tmp_path)
    first.release()
    assert not is_alive(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    there = Process.of(child.pid)
    place = {"pid": there.pid, "boot": there.machine, "started": there.started}
    write_record(tmp_path, 0.0, **place)
    assert is_alive(tmp_path)
    child.kill()
    child.wait()
    assert not is_alive(tmp_path)
    RunLock(tmp_path).release()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"\xff", b'{"pid": 1e999}', b"[" * 100_000, b'{"held": true}'),
        json.dumps(RECORD | {"pid": "x"}).encode(),
        json.dumps(RECORD | {"pid": 10**30, "held": False}).encode(),
    ],
)
def test_a_damaged_record_counts_as_no_holder(tmp_path: Path, content: bytes) -> None:
    """A run whose disk was full once could never be started again."""
    write_status(tmp_path, started(None, 70))
    (tmp_path / "lock").write_bytes(content)
    assert report(tmp_path)[0] == "failed"
    RunLock(tmp_path).release()
    holder = last_holder(tmp_path)
    assert holder is not None and holder.process.pid == os.getpid()


def test_a_pipe_or_endless_file_as_lock_hangs_nobody(tmp_path: Path) -> None:
    """psl.status of a folder from elsewhere would wait forever."""
    write_status(tmp_path, started(None, 70))
    os.mkfifo(tmp_path / "lock")
    assert report(tmp_path)[0] == "failed"
    with pytest.raises(JobError, match="lock: not a plain file; remove it"):
        RunLock(tmp_path)
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").symlink_to("/dev/zero")
    assert report(tmp_path)[0] == "failed"
