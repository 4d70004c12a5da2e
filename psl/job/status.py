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
class Speed:
    """How fast a run is, and where its time goes; shares are from 0 to 1."""

    chunks_per_second: float
    """Over all processes, while steps are made."""
    gflops_per_second: float | None
    """Of one process: 1e9 FLOPs of its steps, counted once; None if unknown."""
    mfu: float | None
    """That over what the device can do; None where its peak is unknown."""
    wait_share: float
    """Of the time of steps: waiting for data."""
    communication_share: float
    """Of the time of steps: in the all-reduce, waiting for others included."""
    validation_share: float
    """Of this start so far: validating."""
    checkpoint_share: float
    """Of this start so far: gathering and writing checkpoints."""
    goodput: float | None
    """Time of the steps that count over the time since the run was first started:
    those that a restart makes again count once. None if that is unknown."""


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
    first_start: float | None = None
    """When the run was first started, s since 1970; later by the time for which it
    was over before it was made longer."""
    wall_seconds: float = 0.0
    """From then to when this was written."""
    useful_seconds: float = 0.0
    """What the steps in the newest checkpoint took, each once."""
    speed: Speed | None = None
    """Of the newest start."""


def state_of(status: int) -> State:
    """The state of a run whose process ends with exit ``status``."""
    return next((state for state, code in EXIT_OF.items() if code == status), "failed")


def started(before: Status | None, step: int, epoch: int = 0) -> Status:
    """The status of a run that is started when ``before`` was its last one.

    A start counts as futile until there is a checkpoint beyond ``step``. One that was
    stopped on request, or that had nothing left to do, is not counted.
    """
    now, futile = time.time(), 1
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
        first_start=_first_start(before, now),
        wall_seconds=before.wall_seconds if before else 0.0,
        useful_seconds=_useful_at(before, step) if before else 0.0,
    )


def _first_start(before: Status | None, now: float) -> float | None:
    """When the run began, s; None for one that is older than this record of it.

    Time for which there was nothing to do, or nothing that could be done, is left out.
    """
    if before is None:
        return now
    if before.first_start is not None and before.state in ("done", "bad_config"):
        return max(before.first_start, now - before.wall_seconds)
    return before.first_start


def _useful_at(before: Status, step: int) -> float:
    """The useful time of a run that resumes from ``step``.

    Less than before if newer checkpoints are gone: their steps are made again.
    """
    if before.step == 0:
        return 0.0
    return before.useful_seconds * min(1.0, step / before.step)


def with_step(
    status: Status,
    step: int,
    epoch: int,
    useful_seconds: float | None = None,
    speed: Speed | None = None,
) -> Status:
    """``status`` after a checkpoint at ``step``; None for what is as before."""
    if useful_seconds is None:
        useful_seconds = status.useful_seconds
    return _restamp(
        replace(
            status,
            step=step,
            epoch=epoch,
            useful_seconds=useful_seconds,
            speed=speed or status.speed,
        )
    )


def with_speed(status: Status, speed: Speed) -> Status:
    """``status`` between two checkpoints."""
    return _restamp(replace(status, speed=speed))


def settled_speed(status: Status) -> Speed | None:
    """The speed of a run that is not running: steps after its checkpoint are lost."""
    if status.speed is None or status.first_start is None:
        return status.speed
    seconds = status.wall_seconds
    goodput = status.useful_seconds / seconds if seconds > 0 else None
    return replace(status.speed, goodput=goodput)


def ended(status: Status, state: State, message: str) -> Status:
    """``status`` after the run ended."""
    status = _restamp(replace(status, state=state, message=message))
    return replace(status, speed=settled_speed(status))


def _now(**values: object) -> Status:
    stamp = {"host": socket.gethostname(), "pid": os.getpid(), "time": _time()}
    return TypeAdapter(Status).validate_python({**values, **stamp})


def _restamp(status: Status) -> Status:
    seconds = max(status.wall_seconds, seconds_since_first_start(status) or 0.0)
    return replace(status, time=_time(), wall_seconds=seconds)


def seconds_since_first_start(status: Status) -> float | None:
    """Up to now; None if it is unknown when that was."""
    return None if status.first_start is None else time.time() - status.first_start


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


def speed_now(run_dir: str | Path, state: State) -> Speed | None:
    """What status.json says of the speed of a run that is in ``state``."""
    status = read_status(run_dir)
    if status is None:
        return None
    return status.speed if state == "running" else settled_speed(status)


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
