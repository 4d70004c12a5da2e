"""One job at a time in a run folder.

Owns the file ``lock`` of a run folder: a kernel lock for jobs of one machine, which
dies with its holder, and a heartbeat for jobs of machines that share the folder but
not the kernel's locks. It is never deleted; its record outlives the holder and tells
the step that was reached.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from shards.system.exits import JobError

_log = logging.getLogger(__name__)

LOCK_NAME = "lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A holder on another machine whose record does not change for so long is dead. NFS
clients may show each other a file up to some seconds late."""
_RECORD_BYTES = 512


@dataclass(frozen=True)
class Holder:
    """Who holds, or last held, a run folder."""

    name: str
    """Process and machine, to print."""
    step: int
    """Optimizer steps it had done, those after its last checkpoint too."""
    alive: bool
    """Whether it holds the folder still, as far as can be told."""


class RunLock:
    """The folder of a run, held until ``release`` or the end of the process."""

    def __init__(
        self, run_dir: str | Path, *, stale_seconds: float = STALE_SECONDS
    ) -> None:
        """Take the folder, waiting up to ``stale_seconds`` for a dead holder elsewhere.

        Raises JobError naming the holder if there is a living one.
        """
        path = Path(run_dir, LOCK_NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._path = path
        if not _flock(self._file) or _beats(path, stale_seconds):
            os.close(self._file)
            raise _refusal(path)
        self._mutex, self._ended = threading.Lock(), threading.Event()
        self._token, self._beat, self._step = secrets.token_hex(8), 0, 0
        self._write()
        threading.Thread(target=self._keep, name="run lock", daemon=True).start()

    def reached(self, step: int) -> None:
        """Note that ``step`` optimizer steps are done; costs a few microseconds."""
        self._step = step
        self._write()

    def release(self) -> None:
        """Give the folder back."""
        self._ended.set()
        with self._mutex:
            self._write_record(held=False)
            os.close(self._file)

    def _keep(self) -> None:
        """Beat, and end the process if another one took the folder over.

        That happens to a machine that was frozen, or cut off from the shared folder.
        """
        while not self._ended.wait(BEAT_SECONDS):
            if _read(self._path).get("token") not in (self._token, None):
                os.write(2, f"{_refusal(self._path)}\n".encode())
                os._exit(1)
            self._beat += 1
            with contextlib.suppress(OSError):  # a full disk is for others to report
                self._write()
                os.fsync(self._file)

    def _write(self) -> None:
        with self._mutex:
            if not self._ended.is_set():
                self._write_record(held=True)

    def _write_record(self, *, held: bool) -> None:
        record = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "boot": _boot(),
            "token": self._token,
            "beat": self._beat,
            "step": self._step,
            "held": held,
        }
        data = json.dumps(record).encode().ljust(_RECORD_BYTES - 1) + b"\n"
        os.pwrite(self._file, data, 0)


def _flock(file: int) -> bool:
    """Take the kernel's lock; False if another process keeps it.

    Tries for a second: whoever asks how the run stands holds the lock for an instant.
    """
    deadline = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def last_holder(run_dir: str | Path) -> Holder:
    """Who holds, or last held, the folder of a run."""
    path = Path(run_dir, LOCK_NAME)
    record = _read(path)
    alive = bool(record.get("held")) and (_is_locked(path) or _is_recent(path, record))
    return Holder(_name(record), int(record.get("step", 0)), alive)


def _is_locked(path: Path) -> bool:
    """Whether a process of this machine (or of the lock server) holds the lock."""
    with open(path, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _is_recent(path: Path, record: dict) -> bool:
    """Whether the holder is on another machine and wrote not long ago."""
    age = time.time() - path.stat().st_mtime
    return record.get("boot") != _boot() and age < 2 * STALE_SECONDS


def _beats(path: Path, seconds: float) -> bool:
    """Whether a holder on another machine shows life within ``seconds``.

    Compares its record with itself, not with our clock: clocks of machines differ.
    """
    first = _read(path)
    if not first.get("held") or first["boot"] == _boot():
        return False
    _log.info("%s: held by %s; waiting to see if it lives", path, _name(first))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.5, seconds / 10))
        now = _read(path)
        if not now.get("held"):
            return False
        if now != first:
            return True
    return False


def _read(path: Path) -> dict:
    """The record; empty if there is none, or it is damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _name(record: dict) -> str:
    return f"process {record.get('pid', '?')} on {record.get('host', '?')}"


def _refusal(path: Path) -> JobError:
    return JobError(
        f"{path}: {_name(_read(path))} is running this run; wait for its end, or "
        "choose another run_dir"
    )


def _boot() -> str:
    """Names this start of this machine, or an empty string; host names may repeat."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
