"""One job at a time in a run folder.

Owns the file ``lock`` of a run folder: a kernel lock for jobs of one machine, which
dies with its holder, and a heartbeat for jobs of machines that share the folder but
not the kernel's locks. It is never deleted; its record outlives the holder and tells
the step that was reached.

A heartbeat is compared with itself, never with a clock: clocks of machines and file
servers differ.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.system.exits import EXIT_FAILED, JobError
from shards.system.files import file_system_time, naming_write, open_regular
from shards.system.flock import try_lock
from shards.system.processes import Process
from shards.system.threads import leave_now, start_thread

_log = logging.getLogger(__name__)

LOCK_NAME = "lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A holder on another machine whose record does not change for so long is dead. NFS
clients may show each other a file up to some seconds late."""
LOOK_SECONDS = 15.0
"""For those who only ask: the same, at the price of a rare error."""
_RECORD_BYTES = 512
_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Holder:
    """Who holds, or last held, a run folder; what its record says."""

    name: str
    """Process and machine, to print."""
    process: Process
    step: int
    """Optimizer steps it had done, also those after its last checkpoint."""
    token: str
    """Random, another for each start."""
    held: bool
    """False once it gave the folder back."""


class RunLock:
    """The folder of a run, held until ``release`` or the end of the process."""

    def __init__(
        self, run_dir: str | Path, *, stale_seconds: float = STALE_SECONDS
    ) -> None:
        """Take the folder, waiting up to ``stale_seconds`` for a dead holder elsewhere.

        Raises JobError naming the holder if there is a living one.
        """
        path = Path(run_dir, LOCK_NAME)
        with naming_write(path, "the lock of this run"):
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = os.open(path, flags, 0o666)
        self._path = path
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise JobError(f"{path}: not a plain file; remove it")
        free = _lock_patiently(self._file)
        if free is False or _lives(path, stale_seconds, kernel_lock=free):
            os.close(self._file)
            raise _refusal(path)
        self._mutex, self._ended = threading.Lock(), threading.Event()
        self._token, self._beat, self._step = secrets.token_hex(8), 0, 0
        self._host, self._me = socket.gethostname(), Process.of(os.getpid())
        self._write()
        os.ftruncate(self._file, _RECORD_BYTES)  # a damaged one may be longer
        start_thread(self._keep, name="run lock")

    def reached(self, step: int) -> None:
        """Note that ``step`` optimizer steps are done; costs a few microseconds."""
        self._step = step
        self._write()

    def release(self) -> None:
        """Give the folder back."""
        self._ended.set()
        with self._mutex:
            with contextlib.suppress(OSError):  # the kernel's lock goes in any case
                self._write_record(held=False)
            os.close(self._file)

    def _keep(self) -> None:
        """Beat, and end the process if another one took the folder over.

        That happens to a machine that was frozen, or cut off from the shared folder.
        """
        while not self._ended.wait(BEAT_SECONDS):
            holder = last_holder(self._path.parent)
            if holder is not None and holder.token != self._token:
                leave_now(f"error: {_refusal(self._path)}", EXIT_FAILED)
            self._beat += 1
            with contextlib.suppress(OSError):  # a full disk is for others to report
                self._write()
                with self._mutex:
                    if not self._ended.is_set():
                        os.fsync(self._file)

    def _write(self) -> None:
        with self._mutex, naming_write(self._path, "the lock of this run"):
            if not self._ended.is_set():
                self._write_record(held=True)

    def _write_record(self, *, held: bool) -> None:
        record = {
            "host": self._host,
            "pid": self._me.pid,
            "boot": self._me.machine,
            "started": self._me.started,
            "token": self._token,
            "beat": self._beat,
            "step": self._step,
            "held": held,
        }
        data = json.dumps(record).encode().ljust(_RECORD_BYTES - 1) + b"\n"
        os.pwrite(self._file, data, 0)


def last_holder(run_dir: str | Path) -> Holder | None:
    """Who holds, or last held, the folder of a run; None if unknown."""
    record = _read(Path(run_dir, LOCK_NAME))
    try:
        process = Process(
            int(record["pid"]), str(record["boot"]), int(record.get("started", 0))
        )
        return Holder(
            name=f"process {process.pid} on {str(record['host'])[:100]}",
            process=process,
            step=int(record["step"]),
            token=str(record["token"]),
            held=record["held"] is True,
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def is_alive(run_dir: str | Path) -> bool:
    """Whether the folder of a run is held, as far as can be told.

    Takes up to LOOK_SECONDS where its holder is, or was, on another machine.
    """
    path = Path(run_dir, LOCK_NAME)
    holder = last_holder(run_dir)
    if holder is None or not holder.held:
        return False
    with open_regular(path) as stream:
        free = try_lock(stream, shared=True)
    return free is False or _lives(path, LOOK_SECONDS, kernel_lock=free, recent=True)


def _lives(
    path: Path, seconds: float, *, kernel_lock: bool | None, recent: bool = False
) -> bool:
    """Whether a holder without the kernel's lock lives: on another machine, perhaps.

    ``kernel_lock`` is None where there are no such locks. It is given ``seconds`` to
    change its record; with ``recent``, one not older than two beats is enough.
    """
    first = last_holder(path.parent)
    if first is None or not first.held:
        return False
    if first.process.is_here:
        return kernel_lock is None and not first.process.is_dead
    if recent and _age(path) <= 2 * BEAT_SECONDS:
        return True
    _log.info("%s: held by %s; waiting for a sign of life", path, first.name)
    before, deadline = _read(path), time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.5, seconds / 10))
        now = _read(path)
        if now and now != before:
            return now.get("held") is True
    return False


def _age(path: Path) -> float:
    """Since a file was written, s, by the clock of its file system.

    Infinite where that is unknown, or the file is from its future.
    """
    now = file_system_time(path.parent)
    age = None if now is None else now - path.stat().st_mtime
    return age if age is not None and age >= 0 else float("inf")


def _lock_patiently(file: int) -> bool | None:
    """What try_lock says, after a second if the lock is taken.

    A process that asks how the run stands holds it for an instant.
    """
    deadline = time.monotonic() + 1.0
    while (locked := try_lock(file)) is False and time.monotonic() < deadline:
        time.sleep(0.05)
    return locked


def _read(path: Path) -> dict[str, Any]:
    """The record; empty if there is none, or it is damaged.

    A network file system may show one half written, so a damaged one is read again.
    """
    for pause in (0.05, 0.2, 0.0):
        try:
            with open_regular(path, max_bytes=_MAX_BYTES) as stream:
                record = json.loads(stream.read(_MAX_BYTES))
            return record if isinstance(record, dict) else {}
        except (OSError, ShardError):
            return {}
        except (ValueError, RecursionError):
            time.sleep(pause)
    return {}


def _refusal(path: Path) -> JobError:
    holder = last_holder(path.parent)
    name = holder.name if holder else "another process"
    return JobError(
        f"{path}: {name} is running this run; wait for its end, or choose another "
        "run_dir"
    )
