"""Threads of ours, none of which dies without ending the process.

Owns how they start, and how a process ends at once whatever its threads are doing. A
heartbeat or a watch that is gone silently is worse than a job that fails: others would
take over what it holds, or wait for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from shards.system.exits import EXIT_FAILED

LAST_SECONDS = 20.0
"""For the last words of a process: a dead file server, or a pipe that nobody reads,
would hold them up without end."""

_ends: list[Callable[[str], object]] = []


def start_thread(
    function: Callable[..., object], *arguments: object, name: str
) -> threading.Thread:
    """Run ``function`` in a daemon thread; what it raises ends the process.

    With one line on stderr, status 1, or as ``ending_by`` says.
    """

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            if not sys.is_finalizing():
                _end(name, error)

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    return thread


@contextlib.contextmanager
def ending_by(end: Callable[[str], object]) -> Iterator[None]:
    """While a block runs, call ``end`` with the cause where a thread has died.

    It must end the process.
    """
    _ends.append(end)
    try:
        yield
    finally:
        _ends.remove(end)


def _end(name: str, error: BaseException) -> None:
    if os.environ.get("PSL_DEBUG") == "1":
        traceback.print_exception(error)
    cause = (
        f"the thread {name!r} failed: {error!r}; PSL_DEBUG=1 shows where, run the same "
        "command again"
    )
    try:
        if _ends:
            _ends[-1](cause)
    finally:
        leave_now(f"error: {cause}", EXIT_FAILED)


def limit_last_words() -> None:
    """Have the kernel end this process in LAST_SECONDS, whatever it waits for."""
    if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)


def leave_now(line: str | None, status: int) -> NoReturn:
    """End this process with ``line`` on stderr; waits for no thread or exit hook."""
    limit_last_words()
    with contextlib.suppress(Exception):  # a pipe whose reader is gone
        if line is not None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(status)
