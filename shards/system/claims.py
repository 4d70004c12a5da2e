"""Who of many processes works on which shard: claims on a shared folder that expire.

Owns the files ``<name>.claim``, one for each thing being worked on, and
``<token>.worker``, one for each process. A claim is made by a create that fails if the
file is there, kept fresh by a thread, and may be taken over when its holder is dead: at
once where that is plain to see, else when it was not refreshed for the holder's lease.

Relied on, of a network file system: exclusive create and rename are atomic; opening a
file shows its newest content and times. Ages are differences of two times of the file
system, so no machine's clock matters. A claim saves work and decides nothing: a process
that was frozen past its lease may believe for a moment that it holds what another one
has, so what claims guard must be written whole, and the same by whoever writes it.
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

CLAIM_SUFFIX = ".claim"
WORKER_SUFFIX = ".worker"
BEATS_PER_LEASE = 6
STALL_LEASES = 5
"""A process that gets nowhere for so many leases stops refreshing: it hangs."""
UNKNOWN_LEASE_SECONDS = 60.0
"""Of a claim whose holder died between creating and writing it."""
LOCK_SECONDS = 10.0
"""A claim is locked for the instant in which it is replaced or removed; older locks
are of processes that died in it."""
LOCK_TRIES = 100

Item = TypeVar("Item")


class ClaimLost(Exception):
    """Another process has taken over what this one was working on."""


@dataclass(frozen=True)
class Holder:
    """A process that claims things; what its files say."""

    token: str
    """Random, the same in all files of one process."""
    host: str
    pid: int
    boot: str
    """The start of its machine and the pid namespace in which ``pid`` counts."""
    started: int
    """When it started, in clock ticks since that boot: a pid may be given again."""
    since: float
    """When it joined, file-system time, s."""
    lease_seconds: float
    """After which its claims are free, if it does not refresh them."""

    @property
    def name(self) -> str:
        """Process and machine, to print."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended; False for any on another machine."""
        if not self.boot or self.boot != _boot():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, whose /proc may be hidden from us
            pass
        return _started(self.pid) not in (None, self.started)


@dataclass(frozen=True)
class Held:
    """A claim or worker file as found."""

    holder: Holder | None
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
        self._me: Holder
        self._thread = threading.Thread(target=self._keep, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._worker.touch()
        since = self._worker.stat().st_mtime
        self._me = Holder(
            token=self._token,
            host=socket.gethostname(),
            pid=os.getpid(),
            boot=_boot(),
            started=_started(os.getpid()) or 0,
            since=since,
            lease_seconds=self.lease_seconds,
        )
        self._worker.write_text(json.dumps(asdict(self._me)))
        self._thread.start()
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
            return _read_holder(self._path(name))[0] == self._me
        return False

    def give_back(self, claim: Claim) -> None:
        """End a claim, whether lost or not."""
        with self._mutex:
            self._held.pop(claim.name, None)
        path = self._path(claim.name)
        with contextlib.suppress(FileNotFoundError):  # the folder has served its end
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
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(json.dumps(asdict(self._me)))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return True

    def _read(self, path: Path) -> Held | None:
        """A claim and its age; None if there is none."""
        os.utime(self._worker)
        try:
            holder, time_of = _read_holder(path)
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
            holder, time_of = _read_holder(path)
            found[path.name.removesuffix(suffix)] = Held(holder, now - time_of)
    return found


def _read_holder(path: Path) -> tuple[Holder | None, float]:
    """Who wrote a file, and when it was last refreshed."""
    with open(path, "rb") as stream:  # opened anew: on NFS, a bare stat may be old
        data, time_of = stream.read(), os.fstat(stream.fileno()).st_mtime
    try:
        holder = Holder(**json.loads(data))
        return (holder if 0 < int(holder.pid) < 1 << 31 else None), time_of
    except (ValueError, TypeError):
        return None, time_of


def _boot() -> str:
    """Names this start of this machine and our pid namespace; "" where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process of this machine started; 0 if it has ended, None if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(fields[18])
