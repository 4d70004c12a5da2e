"""The launcher of this process: torchrun, accelerate launch or one of their kind.

Owns its detection, and a thread that ends this process when it is gone. A launcher
that is killed (as the kernel does when memory is short) cannot stop its ranks: they
would wait for each other, or train on, and hold the run folder of the next start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from shards.system import processes
from shards.system.exits import EXIT_FAILED
from shards.system.processes import Process
from shards.system.threads import leave_now, start_thread

LOOK_SECONDS = 1.0
_MARKS = ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")
"""Variables that launchers give to their processes, the surest first."""
_LAUNCHERS = ("python", "pt_", "torchrun", "accelerate", "deepspeed")
_REAPERS = ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")
"""Programs that adopt the children of the dead, and launch nothing of this kind."""


def end_with_launcher(
    end: Callable[[str], object] | None = None,
) -> Callable[[], str | None]:
    """End this process, from now on, within seconds of the end of its launcher.

    ``end`` is called with the cause, from a thread, and must end the process; without
    it, the cause is printed. Returns what asks at once: the cause, or None while there
    is none. Does nothing in a process that no launcher started, as from a shell, which
    may well end before it.
    """
    pid = _find_launcher(mark) if (mark := _mark()) else None
    if pid is None:
        return lambda: None
    launcher = Process.of(pid)

    def cause() -> str | None:
        if pid and not launcher.is_dead:
            return None
        name = f"process {pid}" if pid else "its process"
        return f"the launcher of this rank is gone ({name}); run the same command again"

    start_thread(_watch, cause, end or _leave, name="launcher")
    return cause


def _mark() -> str | None:
    return next((mark for mark in _MARKS if mark in os.environ), None)


def _find_launcher(mark: str) -> int | None:
    """The process that launched this one; 0 if that is gone, None if there is none.

    It is the nearest ancestor that was not itself started with our mark: between may
    be scripts. Only torchrun's mark is never set by hand; with another one, a shell
    may be at that place, whose end means nothing.
    """
    pid = processes.parent_of(os.getpid())
    while pid > 1 and _was_started_with(pid, mark):
        pid = processes.parent_of(pid)
    command = processes.command_of(pid)
    if pid == 0 or command.startswith(_LAUNCHERS):
        return pid or None
    if pid == 1 or command in _REAPERS:
        return 0 if mark == _MARKS[0] else None
    return pid if mark == _MARKS[0] else None


def _was_started_with(pid: int, mark: str) -> bool:
    variables = processes.environment_of(pid) or {}
    return variables.get(mark) == os.environ[mark]


def _watch(find_cause: Callable[[], str | None], end: Callable[[str], object]) -> None:
    while (cause := find_cause()) is None:
        time.sleep(LOOK_SECONDS)
    end(cause)


def _leave(cause: str) -> None:
    leader = os.environ.get("LOCAL_RANK", "0") == "0"
    leave_now(f"error: {cause}" if leader else None, EXIT_FAILED)
