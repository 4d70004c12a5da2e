"""status.json of a run folder: how the run stands, for people and batch scripts.

Owns the states of a run, their file, and the rule that calls a run stuck.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from psl.config_values import read_words
from psl.job.lock import is_alive, last_holder
from shards.errors import ShardError
from shards.system.exits import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_PREEMPTED,
    EXIT_RUNNING,
    EXIT_STUCK,
)
from shards.system.files import read_bounded, write_atomic

STATUS_NAME = "status.json"
MAX_STATUS_BYTES = 1 << 20
State = Literal["running", "done", "preempted", "failed", "stuck", "bad_config"]
EXIT_OF: dict[State, int] = {
    "done": EXIT_DONE,
    "failed": EXIT_FAILED,
    "running": EXIT_RUNNING,
    "preempted": EXIT_PREEMPTED,
    "bad_config": EXIT_BAD_INPUT,
    "stuck": EXIT_STUCK,
}
"""What ``python -m psl.status`` exits with, and training itself at its end."""


@dataclass(frozen=True)
class Status:
    """How a run stands."""

    state: State
    message: str
    """Why it ended; empty while it runs."""
    step: int
    """Optimizer steps in the newest checkpoint."""
    epoch: int
    """Epochs completed in the newest checkpoint."""
    attempts: int
    """Times the run was started."""
    start_step: int
    """Optimizer steps that were done when it was last started."""
    futile_starts: int
    """Starts in a row from that step which did not get to a later checkpoint."""
    host: str
    pid: int
    """The process id of rank 0."""
    time: str
    """When this was written, ISO 8601."""


def state_of(status: int) -> State:
    """The state of a run whose process ends with exit ``status``."""
    return next((state for state, code in EXIT_OF.items() if code == status), "failed")


def started(before: Status | None, step: int, epoch: int = 0) -> Status:
    """The status of a run that is started when ``before`` was its last one.

    A start counts as futile until there is a checkpoint beyond ``step``. One that was
    stopped on request, or that had nothing left to do, is not counted.
    """
    futile = 1
    if before is not None and before.start_step == step:
        futile = before.futile_starts + (before.state in ("running", "failed"))
    return _now(
        state="running",
        message="",
        step=step,
        epoch=epoch,
        attempts=before.attempts + 1 if before else 1,
        start_step=step,
        futile_starts=futile,
    )


def with_step(status: Status, step: int, epoch: int) -> Status:
    """``status`` after a checkpoint at ``step``."""
    return _restamp(replace(status, step=step, epoch=epoch))


def ended(status: Status, state: State, message: str) -> Status:
    """``status`` after the run ended."""
    return _restamp(replace(status, state=state, message=message))


def _now(**values: object) -> Status:
    stamp = {"host": socket.gethostname(), "pid": os.getpid(), "time": _time()}
    return TypeAdapter(Status).validate_python({**values, **stamp})


def _restamp(status: Status) -> Status:
    return replace(status, time=_time())


def _time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_status(run_dir: str | Path, status: Status) -> None:
    """Replace status.json in one rename. One process only."""
    text = json.dumps(asdict(status), indent=1) + "\n"
    write_atomic(Path(run_dir, STATUS_NAME), text)


def read_status(run_dir: str | Path) -> Status | None:
    """The status of a run; None if there is none, or it cannot be read."""
    try:
        data = read_bounded(Path(run_dir, STATUS_NAME), MAX_STATUS_BYTES)
        return TypeAdapter(Status).validate_json(data)
    except (OSError, ShardError, ValidationError):
        return None


def note_bad_config(words: Sequence[str], message: str, cls: type) -> None:
    """Write ``bad_config`` in the run folder that refused words for ``cls`` name.

    A batch script would otherwise read how the start before ended. Does nothing where
    the words name no run folder, or another job is in it.
    """
    run_dir: object = None
    for word in words:
        try:
            run_dir = read_words([word], cls).get("run_dir", run_dir)
        except ValueError:
            continue
    if not isinstance(run_dir, str) or is_alive(run_dir):
        return
    before = read_status(run_dir)
    step, epoch = (before.step, before.epoch) if before else (0, 0)
    status = started(before, step, epoch)
    write_status(run_dir, ended(status, "bad_config", message))


def report(run_dir: str | Path) -> tuple[State, str]:
    """State of the run, and a line about it.

    A run that was killed says ``running`` in its file; if nobody holds its folder any
    more, it failed.
    """
    status = read_status(run_dir)
    if status is None:
        return "failed", f"{run_dir}: never started, or {STATUS_NAME} is not readable"
    if status.state != "running":
        at = f"at step {status.step}, epoch {status.epoch}"
        return status.state, f"{at}: {status.message}".rstrip(": ")
    holder = last_holder(run_dir)
    if holder is None:
        return "failed", f"{run_dir}: its lock file is missing or damaged"
    if is_alive(run_dir):
        return "running", f"at step {holder.step}, by {holder.name}"
    return "failed", (
        f"killed at step {holder.step} without reporting an error ({holder.name}); "
        f"newest checkpoint: step {status.step}"
    )
