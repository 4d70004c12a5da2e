"""Who of many processes works on which shard: claims on a shared folder that expire.

Owns the files ``<name>.claim``, one for each thing being worked on, and
``<token>.worker``, one for each process. A claim is made by a create that fails if the
file is there, kept fresh by a thread, and may be taken over when its holder is dead: at
once where that is plain to see, else when it was not refreshed for the holder's lease.

Relied on, of a network file system: exclusive create and rename are atomic; opening a
file shows its newest content and times. Ages are differences of two times of the file
system, so no machine's clock matters. Claims avoid duplicate work; correctness does not
depend on them: a process
that was frozen past its lease may believe for a moment that it holds what another one
has, so what claims guard must be written whole, and the same by every process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TypeVar

from shards.system.processes import Process
from shards.system.threads import start_thread
from shards.system.writing import naming_write

CLAIM_SUFFIX = ".claim"
WORKER_SUFFIX = ".worker"
BEATS_PER_LEASE = 6
STALL_LEASES = 5
"""Leases without progress after which a process stops refreshing (assumed hung)."""
UNKNOWN_LEASE_SECONDS = 60.0
"""The lease of a claim whose holder died between creating and writing it."""
LOCK_SECONDS = 10.0
"""A claim is locked for the instant in which it is replaced or removed; older locks
are of processes that died in it."""
LOCK_TRIES = 100
MAX_BYTES = 4096
"""A longer claim is not one of ours."""

Item = TypeVar("Item")


class ClaimLost(Exception):
    """Another process has taken over what this one was working on."""


@dataclass(frozen=True)
class Claimant:
    """A process that claims things; what its files say."""

    token: str
    """Random, the same in all files of one process."""
    host: str
    pid: int
    boot: str
    """``processes.this_machine()`` where ``pid`` counts."""
    started: int
    """When it started, in clock ticks since that boot: a pid may be reused."""
    since: float
    """When it joined, file-system time, s."""
    lease_seconds: float
    """After this long without a refresh its claims are free."""

    @property
    def name(self) -> str:
        """Process and machine, to print."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended; False for any on another machine."""
        return Process(self.pid, self.boot, self.started).is_dead


@dataclass(frozen=True)
class Held:
    """A claim or worker file as found."""

    holder: Claimant | None
    """None if the file was not written to its end."""
    age: float
    """Since it was last refreshed, s."""

    @property
    def is_stale(self) -> bool:
        """Whether its holder is dead or, as far as can be told, no longer works."""
        if self.holder is None:
            return self.age > UNKNOWN_LEASE_SECONDS
        return self.holder.is_dead or self.age > self.holder.lease_seconds

    @property
    def name(self) -> str:
        """Its holder, to print."""
        return self.holder.name if self.holder else "an unknown process"


class Claim:
    """One thing that this process works on, until ``release``."""

    def __init__(self, claims: Claims, name: str) -> None:
        self.name = name
        self.lost = False
        """Whether another process was seen to have it."""
        self._claims = claims

    def check(self) -> None:
        """ClaimLost if another process has it; asks the file, not our memory."""
        if self.lost or not self._claims.has(self.name):
            self.lost = True
            raise ClaimLost(self.name)

    def guard(self, items: Iterable[Item]) -> Iterator[Item]:
        """``items``, and at their end ``check``: for what is written with them."""
        self.check()
        yield from items
        self.check()

    def release(self) -> None:
        """Give it back; nothing if it is lost."""
        self._claims.give_back(self)


class Claims:
    """What one process claims in ``folder``. A context manager: at its end all is free.

    Threads may share it.
    """

    def __init__(self, folder: Path, *, lease_seconds: float) -> None:
        self.folder, self.lease_seconds = folder, lease_seconds
        self._token = secrets.token_hex(8)
        self._worker = folder / f"{self._token}{WORKER_SUFFIX}"
        self._held: dict[str, Claim] = {}
        self._mutex, self._ended = threading.Lock(), threading.Event()
        self._last_progress = time.monotonic()
        self._me: Claimant
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        with naming_write(self._worker, "who labels here"):
            self._worker.touch()
        since = self._worker.stat().st_mtime
        me = Process.of(os.getpid())
        self._me = Claimant(
            token=self._token,
            host=socket.gethostname(),
            pid=me.pid,
            boot=me.machine,
            started=me.started,
            since=since,
            lease_seconds=self.lease_seconds,
        )
        with naming_write(self._worker, "who labels here"):
            self._worker.write_text(json.dumps(asdict(self._me)))
        self._thread = start_thread(self._keep, name="claims")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for claim in list(self._held.values()):
            with contextlib.suppress(OSError):  # it is stale at once: we end
                claim.release()
        self._worker.unlink(missing_ok=True)

    @property
    def token(self) -> str:
        """Random, and this process's own."""
        return self._token

    def progress(self) -> None:
        """Note that this process does not hang."""
        self._last_progress = time.monotonic()

    def take(self, name: str) -> Claim | None:
        """Claim ``name``; None if a living process has it.

        Raises FileNotFoundError if the folder is gone.
        """
        path = self._path(name)
        if not self._create(path):
            found = self._read(path)
            if found is None or not found.is_stale:
                return None
            if not self._replace(path):
                return None
        claim = Claim(self, name)
        with self._mutex:
            self._held[name] = claim
        return claim

    def has(self, name: str) -> bool:
        """Whether the file says that this process has ``name``."""
        with contextlib.suppress(FileNotFoundError):
            return _read_claimant(self._path(name))[0] == self._me
        return False

    def give_back(self, claim: Claim) -> None:
        """End a claim, whether lost or not."""
        with self._mutex:
            self._held.pop(claim.name, None)
        path = self._path(claim.name)
        with contextlib.suppress(FileNotFoundError):  # the folder was already removed
            for _ in range(LOCK_TRIES):
                with self._locked(path) as locked:
                    if locked:
                        if self.has(claim.name):
                            path.unlink()
                        return
                time.sleep(LOCK_SECONDS / LOCK_TRIES)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{CLAIM_SUFFIX}"

    def _create(self, path: Path) -> bool:
        """Make our claim, whole or not at all; False if there is one."""
        try:
            with naming_write(path, "a claim"):
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with naming_write(path, "a claim"), os.fdopen(handle, "w") as stream:
                stream.write(json.dumps(asdict(self._me)))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return True

    def _read(self, path: Path) -> Held | None:
        """A claim and its age; None if there is none."""
        os.utime(self._worker)
        try:
            holder, time_of = _read_claimant(path)
        except FileNotFoundError:
            return None
        return Held(holder, self._worker.stat().st_mtime - time_of)

    def _replace(self, path: Path) -> bool:
        """Put ours in the place of a stale claim; False if another does, or did so.

        By a rename, so that there is no moment without a claim.
        """
        with self._locked(path) as locked:
            found = self._read(path) if locked else None
            if found is None or not found.is_stale:
                return False
            ours = path.with_name(f"{path.name}.{self._token}")
            with naming_write(ours, "a claim"):
                ours.write_text(json.dumps(asdict(self._me)))
                os.rename(ours, path)
            return True

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[bool]:
        """Whether we alone may replace or remove a claim, during the block."""
        lock = path.with_name(f"{path.name}.lock")
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            found = self._read(lock)
            if found and found.age > LOCK_SECONDS:
                lock.unlink(missing_ok=True)  # somebody died in such an instant
            yield False
            return
        try:
            yield True
        finally:
            lock.unlink(missing_ok=True)

    def _keep(self) -> None:
        """Refresh what we have, and note what we have lost."""
        while not self._ended.wait(self.lease_seconds / BEATS_PER_LEASE):
            stalled = time.monotonic() - self._last_progress
            if stalled > STALL_LEASES * self.lease_seconds:
                continue
            with self._mutex:
                held = list(self._held.values())
            with contextlib.suppress(OSError):
                os.utime(self._worker)
            for claim in held:
                with contextlib.suppress(OSError):  # the next beat tries again
                    if self.has(claim.name):
                        os.utime(self._path(claim.name))
                    elif claim.name in self._held:
                        claim.lost = True


def list_held(folder: Path, suffix: str, *, now: float) -> dict[str, Held]:
    """Claims, or workers, in ``folder`` by name; ages at the time ``now``, s."""
    found = {}
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(FileNotFoundError):
            holder, time_of = _read_claimant(path)
            found[path.name.removesuffix(suffix)] = Held(holder, now - time_of)
    return found


def _read_claimant(path: Path) -> tuple[Claimant | None, float]:
    """Who wrote a file, and when it was last refreshed.

    Opened each time: on NFS, a bare stat may be old.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        data, time_of = stream.read(MAX_BYTES), os.fstat(handle).st_mtime
    try:
        claimant = Claimant(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return None, time_of
    return (claimant if _is_right(claimant) else None), time_of


def _is_right(claimant: Claimant) -> bool:
    """Whether each field is of its type and in its range."""
    texts = (claimant.token, claimant.host, claimant.boot)
    seconds = (claimant.since, claimant.lease_seconds)
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(value) in (int, float) and 0 <= value < 1e15 for value in seconds)
        and type(claimant.pid) is int
        and 0 < claimant.pid < 1 << 31
        and type(claimant.started) is int
        and 0 <= claimant.started < 1 << 63
    )
