"""A request to stop: a signal, or a file PREEMPT in the run folder.

Owns what counts as a request. That all ranks stop after the same step is agreed where
the step is made (psl/training/step.py).
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from shards.system.exits import EXIT_PREEMPTED, JobError
from shards.system.processes import seconds_alive

FILE_NAME = "PREEMPT"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
LOOK_SECONDS = 1.0
"""How often to look for the file; a shared folder may take a millisecond to answer."""


class StopRequest:
    """Catches the signals from ``listen`` to ``restore``.

    They interrupt nothing, unless asked to, until ``defer``: a program that has not
    begun its work yet has nothing to save, and may be blocked in a read.
    """

    def __init__(self, run_dir: str | Path, *, watch_file: bool) -> None:
        """One process is enough to ``watch_file``."""
        self._file = Path(run_dir, FILE_NAME) if watch_file else None
        self._next_look = 0.0
        self._number: int | None = None
        self._handlers: dict[int, Any] = {}
        self._at_once = False

    def listen(self, *, at_once: bool = False) -> None:
        """Catch signals from now on. Those that are ignored, as by nohup, stay so.

        With ``at_once`` they raise JobError in the main thread, until ``defer``.
        """
        self._at_once = at_once
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._take)

    def defer(self) -> None:
        """Only note signals from now on: there is work that can be saved."""
        self._at_once = False

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        if self._at_once:
            self._at_once = False  # a second signal must not interrupt the end
            raise JobError.ending_with(
                EXIT_PREEMPTED,
                f"stopped by {name_of(number)} before any work; run the same command "
                "again to resume",
            )

    @property
    def is_made(self) -> bool:
        """Whether this process was asked to stop."""
        if self._number is None and self._file and time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self._file.exists():
                self._number = 0
        return self._number is not None

    @property
    def reason(self) -> int:
        """Signal number; 0 for the file; -1 for no request to this process."""
        return -1 if self._number is None else self._number

    def clear(self) -> None:
        """Remove the file, so that the next start trains."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def clear_old(self) -> None:
        """Remove the file if it is older than this process.

        One that came while the program was importing is meant for this start.
        """
        if self._file is None:
            return
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - self._file.stat().st_mtime
            if age > seconds_alive():
                self._file.unlink(missing_ok=True)


def name_of(reason: int) -> str:
    """How a request is called."""
    return signal.Signals(reason).name if reason > 0 else f"file {FILE_NAME}"
