"""How every command ends: status 0, or one line on stderr and a status that says why.

Owns exit statuses, here and nowhere else. torchrun and accelerate launch turn every
status except 0 into 1; status.json in the run folder (psl/job/status.py) says which it
was.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

from shards.errors import ShardError
from shards.system import log

EXIT_DONE = 0
EXIT_FAILED = 1
"""Something went wrong that running again may fix: a machine, a disk, a lost rank."""
EXIT_USAGE = 2
"""A flag or command that does not exist, as argparse has it."""
EXIT_RUNNING = 3
"""What psl.status and psl.label --status exit with for a job that runs."""
EXIT_UNAVAILABLE = 69
"""A package or the GPU is missing, and nothing was tried. EX_UNAVAILABLE."""
EXIT_PREEMPTED = 75
"""Stopped when asked, with a checkpoint; run again to resume. EX_TEMPFAIL."""
EXIT_BAD_INPUT = 78
"""Configuration or data that the caller must correct first. EX_CONFIG."""
EXIT_STUCK = 93
"""Consecutive starts made no progress; somebody has to look before another."""
EXIT_INTERRUPTED = 130
"""Ctrl-C in a command that has nothing to save. 128 + SIGINT, as shells have it."""


class JobError(RuntimeError):
    """The job cannot continue, and what is wrong is not in one file or key."""

    status = EXIT_FAILED
    """What the process exits with."""

    @staticmethod
    def ending_with(status: int, message: str) -> JobError:
        """An error for which the process exits with ``status``."""
        error = JobError(message)
        error.status = status
        return error


def typed_name(module: str, *, short: str | None = None) -> str:
    """What the user typed to run the command in ``module``, such as ``psl.train``.

    ``psl train`` by the console script, else ``python -m psl.train``. ``short`` is the
    name of a command whose module has another.
    """
    script = Path(sys.argv[0]) if sys.argv else Path()
    short = short or module.rpartition(".")[2]
    if script.stem == "psl":
        return f"psl {short}"
    if script.parts[-2:] == ("psl", "__main__.py"):
        return f"python -m psl {short}"
    return f"python -m {module}"


def run_main(main: Callable[[], None]) -> None:
    """Run ``main`` and exit; errors a caller can cause become one line.

    With PSL_DEBUG=1 in the environment they keep their traceback.
    """
    if os.environ.get("PSL_DEBUG") == "1":
        log.set_up()
        main()
        return
    try:
        log.set_up()
        main()
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            sys.exit(EXIT_DONE)
        line = one_line(error)
        if line is None:
            raise
        print(line, file=sys.stderr, flush=True)
        sys.exit(exit_status(error))


def _reader_left() -> bool:
    """Whether stdout's reader has gone, as head does; then nobody is left to tell."""
    output = sys.stdout.fileno()
    watched = select.poll()
    watched.register(output, 0)  # errors are always reported
    if not watched.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def exit_status(error: BaseException) -> int:
    """The status with which a process that fails with ``error`` ends."""
    if isinstance(error, JobError):
        return error.status
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, (ShardError, ValueError)):
        return EXIT_BAD_INPUT
    return EXIT_FAILED


def one_line(error: BaseException) -> str | None:
    """The line to print for ``error``; None for a bug, which needs its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again to resume"
    message = message_of(error)
    if isinstance(error, JobError) and error.status == EXIT_PREEMPTED:
        return message
    return None if message is None else f"error: {message}"


def message_of(error: BaseException) -> str | None:
    """What ``error`` says, in one line; None for a mistake of ours."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    if isinstance(error, (ShardError, ValueError, JobError)):
        return " ".join(str(error).split("\n"))
    return None
