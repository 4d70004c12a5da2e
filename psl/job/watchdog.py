"""Watchdog thread: ends the process once the job can make no progress.

It sees what the main thread, blocked in a collective or in a read, cannot: that a rank
of this machine is dead, that another rank has said why it fails, or that this rank has
made no progress for too long. Ranks talk through the store they met at, so that one
message names the rank at fault.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from shards.system.exits import EXIT_FAILED
from shards.system.processes import Process
from shards.system.threads import start_thread

POLL_SECONDS = 1.0
HANG_SECONDS = 4.0
"""For all ranks to write where they hang, before the first of them ends."""
GRACE_SECONDS = 5.0
"""For the main thread to end by itself, once a rank is known to have failed."""
HEARD_SECONDS = 3.0
"""For the other ranks to hear of a cause, before the store may be gone."""
STDERR = 2
STORE_ERRORS_ALLOWED = 5
"""Polls in a row without an answer after which the store counts as gone."""
_PREFIX = "psl/watchdog/"
_PLACES = {
    "start": "at start-up, after step",
    "step": "in step",
    "data": "waiting for the batch of step",
    "evaluate": "in the validation after step",
    "checkpoint": "in the checkpoint after step",
}


@dataclass(frozen=True)
class Cause:
    """Why a job ends."""

    message: str
    silent: tuple[int, ...] = ()
    """Ranks that can no longer speak for themselves: dead, stopped or cut off."""
    hang: bool = False
    """Whether the job made no progress: each rank then says where it stands."""
    status: int = EXIT_FAILED
    """With which all ranks exit."""


class Watchdog:
    """Watches from ``start`` to ``stop``."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        store: Any,
        *,
        timeout_seconds: float,
        end: Callable[[Cause, bool], object],
        tell_hang: Callable[[Cause], object] = lambda cause: None,
    ) -> None:
        """``store``: that of the process group, None if there is no group.

        ``end`` is called from the thread, with the cause and whether this rank is the
        one to report it, and must end the process. ``tell_hang`` is called from it
        before, if the job hangs.
        """
        self._rank, self._world_size, self._store = rank, world_size, store
        self._timeout, self._end = timeout_seconds, end
        self._tell_hang = tell_hang
        self._beat_seconds = min(5.0, timeout_seconds / 4)
        self._beat = 0
        self._place = ("start", 0, time.monotonic())
        self._stopped = threading.Event()
        self._peers: dict[int, _Peer] = {}
        self._heard: Cause | None = None

    def start(self) -> None:
        """Introduce this process to the others and begin to watch. Collective."""
        if self._store is not None:
            self._say_alive()  # or a rank that is stopped early would not be missed
            me = _Peer(socket.gethostname(), Process.of(os.getpid()))
            self._store.set(f"{_PREFIX}who/{self._rank}", json.dumps(asdict(me)))
            for rank in range(self._world_size):
                told = json.loads(self._store.get(f"{_PREFIX}who/{rank}"))
                self._peers[rank] = _Peer(told["host"], Process(**told["process"]))
        start_thread(self._watch, name="watchdog")

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        faulthandler.cancel_dump_traceback_later()

    def mark(self, place: str, step: int) -> None:
        """The main thread has got to ``place`` of ``step``; costs a microsecond."""
        assert place in _PLACES
        self._place = (place, step, time.monotonic())

    def blame(self, cause: Cause) -> tuple[Cause, bool]:
        """The cause the job ends with, and whether it is ours to report.

        The first cause that any rank gives counts.
        """
        if self._store is None:
            return cause, True
        mine = json.dumps([self._rank, asdict(cause)])
        # without the store, each speaks for itself
        with contextlib.suppress(Exception):
            first = self._store.compare_set(f"{_PREFIX}cause", "", mine).decode()
            self._store.set(f"{_PREFIX}heard/{self._rank}", "1")
            return _read_cause(first), first == mine
        if self._heard is not None:
            return self._heard, False
        return cause, True

    def wait_until_heard(self, cause: Cause) -> None:
        """Until all that can have heard ``cause``; at most HEARD_SECONDS.

        For rank 0, with which the store may end. The others would take its end for a
        crash, say so after it, and exit with another status.
        """
        deadline = time.monotonic() + HEARD_SECONDS
        with contextlib.suppress(Exception):
            while self._store is not None and time.monotonic() < deadline:
                keys = [
                    f"{_PREFIX}heard/{rank}"
                    for rank, peer in self._peers.items()
                    if rank not in (self._rank, *cause.silent)
                    and not peer.process.is_dead
                ]
                if not keys or self._store.check(keys):
                    return
                time.sleep(0.05)

    def cause_elsewhere(self, wait_seconds: float) -> Cause | None:
        """Why a collective failed here: what another rank said, or that it is dead."""
        deadline = time.monotonic() + wait_seconds
        while self._store is not None and time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # gone, if rank 0 was its home
                if cause := self._told():
                    return cause
            if cause := self._dead_peer():
                return cause
            time.sleep(0.1)
        return None

    def _watch(self) -> None:
        failures = 0
        while not self._stopped.wait(min(POLL_SECONDS, self._beat_seconds)):
            # in C, for the case that some library never gives the interpreter back; to
            # the descriptor, as notebooks and tests put a stderr without one in place
            faulthandler.dump_traceback_later(
                2 * self._timeout + 60, exit=True, file=STDERR
            )
            cause = self._dead_peer()
            try:
                self._say_alive()
                cause = self._told() or cause
                failures = 0
            except Exception:  # the store's own errors differ among versions
                failures += 1
            if cause is None and failures > STORE_ERRORS_ALLOWED:
                cause = Cause("the launcher that holds the rendezvous is gone")
            if cause is not None:
                self._say_where(cause)
                if not self._stopped.wait(GRACE_SECONDS):
                    self._end(*self.blame(cause))
            elif self._seconds_here() > self._timeout:
                cause = self._diagnosis()
                if self._seconds_here() > self._timeout:
                    blamed = self.blame(cause)
                    self._say_where(blamed[0])
                    self._wait_for_others(blamed[0])
                    self._end(*blamed)
        faulthandler.cancel_dump_traceback_later()

    def _say_where(self, cause: Cause) -> None:
        """Write where this rank hangs, and let the others know that it is written."""
        if cause.hang:
            self._tell_hang(cause)
            with contextlib.suppress(Exception):
                if self._store is not None:
                    self._store.set(f"{_PREFIX}hang/{self._rank}", "1")

    def _wait_for_others(self, cause: Cause) -> None:
        """Until all that can have written where they hang.

        They might not hear of it once this process, with the store, is gone.
        """
        deadline = time.monotonic() + HANG_SECONDS
        able = set(range(self._world_size)) - set(cause.silent)
        keys = [f"{_PREFIX}hang/{rank}" for rank in able]
        with contextlib.suppress(Exception):
            while self._store is not None and time.monotonic() < deadline:
                if self._store.check(keys) or self._stopped.wait(0.1):
                    return

    def _seconds_here(self) -> float:
        return time.monotonic() - self._place[2]

    def _say_alive(self) -> None:
        """Beat, at most every ``_beat_seconds``."""
        now = time.monotonic()
        if self._store is None or now < self._beat * self._beat_seconds:
            return
        self._beat = int(now / self._beat_seconds) + 1
        place, step, _ = self._place
        told = json.dumps([self._beat, place, step])
        self._store.set(f"{_PREFIX}beat/{self._rank}", told)

    def _told(self) -> Cause | None:
        """The cause another rank gave; once heard, known without the store."""
        key = f"{_PREFIX}cause"
        if self._heard is None and self._store is not None and self._store.check([key]):
            self._heard = _read_cause(self._store.get(key).decode())
            self._store.set(f"{_PREFIX}heard/{self._rank}", "1")
        return self._heard

    def _dead_peer(self) -> Cause | None:
        """That a rank of this machine is gone."""
        for rank, peer in self._peers.items():
            if peer.process.is_dead:
                return Cause(
                    f"{self._name(rank)} exited without reporting an error (killed or "
                    "crashed)",
                    silent=(rank,),
                )
        return None

    def _diagnosis(self) -> Cause:
        """Who keeps this rank waiting, as far as the beats of all ranks tell.

        Takes two beats: a rank whose beat does not change meanwhile is silent.
        """
        before = dict(self._beats())
        deadline = time.monotonic() + 2 * self._beat_seconds + POLL_SECONDS
        while time.monotonic() < deadline and not self._stopped.wait(0.1):
            with contextlib.suppress(Exception):  # others may be asking the same
                self._say_alive()
                if cause := self._told():
                    return cause
        after = dict(self._beats())
        here = after[self._rank] = [None, *self._place[:2]]
        seconds = f"{self._seconds_here():.0f} s"
        silent = [
            rank
            for rank, beat in after.items()
            if rank != self._rank and before.get(rank) == beat
        ]
        if silent:
            names = ", ".join(self._name(rank) for rank in silent)
            message = f"{names} gives no sign of life {_where(here)}"
            message = f"{message}: stopped or cut off"
            return Cause(message, silent=tuple(silent), hang=True)
        hungry = [rank for rank, beat in after.items() if beat[1] == "data"]
        if hungry:
            names = ", ".join(self._name(rank) for rank in hungry)
            where = _where(after[hungry[0]])
            return Cause(f"{names} got no data for {seconds}, {where}", hang=True)
        places = ", ".join(f"rank {r} {_where(b)}" for r, b in sorted(after.items()))
        return Cause(f"no progress for {seconds}: {places}", hang=True)

    def _beats(self) -> Iterator[tuple[int, list]]:
        """The last beat of each rank that has one."""
        for rank in range(self._world_size if self._store is not None else 0):
            key = f"{_PREFIX}beat/{rank}"
            with contextlib.suppress(Exception):
                if self._store.check([key]):
                    yield rank, json.loads(self._store.get(key))

    def _name(self, rank: int) -> str:
        peer = self._peers.get(rank)
        if peer is None:
            return f"rank {rank}"
        return f"rank {rank} (process {peer.process.pid} on {peer.host})"


@dataclass(frozen=True)
class _Peer:
    """Where a rank runs."""

    host: str
    process: Process


def _read_cause(text: str) -> Cause:
    """The cause in what ``blame`` stored."""
    _, fields = json.loads(text)
    fields["silent"] = tuple(fields["silent"])
    return Cause(**fields)


def _where(beat: list) -> str:
    _, place, step = beat
    return f"{_PLACES[place]} {step}"
