"""Processes as the kernel shows them: which live, since when, and who started them.

Owns every look into /proc. A process id means something only on one start of one
machine, within one pid namespace, and until the kernel gives it to a new process; a
Process carries all of that. Where there is no /proc, nothing is known and nobody is
called dead.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of this or another machine."""

    pid: int
    machine: str
    """``this_machine()`` where it runs."""
    started: int
    """Its start, in clock ticks since the boot; 0 if unknown."""

    @staticmethod
    def of(pid: int) -> Process:
        """A process of this machine."""
        return Process(pid, this_machine(), _read_start(pid) or 0)

    @property
    def is_here(self) -> bool:
        """Whether its id means something to us."""
        return self.machine != "" and self.machine == this_machine()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended; False for any on another machine."""
        if not self.is_here or not 0 < self.pid < 1 << 31:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, whose /proc may be hidden from us
            pass
        start = _read_start(self.pid)
        if start is None or self.started == 0:
            return start == 0
        return start != self.started  # 0, or that of a new process with this id


@functools.cache
def this_machine() -> str:
    """Names this start of this machine and our pid namespace; "" where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def seconds_alive() -> float:
    """How long this process has been running; 0 where the system does not tell."""
    try:
        started = (_read_start(os.getpid()) or 0) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started if started else 0.0
    except (OSError, AttributeError):
        return 0.0


def parent_of(pid: int) -> int:
    """The id of the parent of a process; 0 if it has none that we can see."""
    fields = _read_stat(pid)
    return int(fields[1]) if fields else 0


def command_of(pid: int) -> str:
    """The name of the program of a process, at most 15 characters; "" if unknown."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def environment_of(pid: int) -> dict[str, str] | None:
    """The environment that a process was started with; None if it is not for us."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    words = (os.fsdecode(word).partition("=") for word in data.split(b"\0"))
    return {name: value for name, _, value in words}


def _read_stat(pid: int) -> list[str] | None:
    """Fields of proc_pid_stat(5) from the third, the state, on; None if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the second, a name, may hold anything


def _read_start(pid: int) -> int | None:
    """When a process started, in ticks; 0 if it has ended, None if unknown."""
    fields = _read_stat(pid)
    if fields is None:
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])
