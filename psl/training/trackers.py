"""Trackers of other projects: W&B, MLflow and trackio, as accelerate speaks to them.

Owns their thread, so that none holds up a step, and what lets a resumed run continue
its record there. TensorBoard is in board.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import secrets
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shards.system.files import write_atomic
from shards.system.threads import start_thread

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""What to install for each that is no part of this project."""
FILE_NAME = "trackers.json"
"""In the run folder: what the run is called by each tracker."""
CLOSE_SECONDS = 30.0
"""For a tracker to send the rest, at the end of a run."""
_MOST_WAITING = 1000
"""Records that wait for a tracker before it counts as dead."""

Values = Mapping[str, Any]


class TrackerError(Exception):
    """A tracker does not take records."""


def check_installed(names: Iterable[str]) -> None:
    """ValueError with the command to install the first that is missing."""
    for name in names:
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            raise ValueError(
                f"tracker: {name} is not installed; pip install {PACKAGES[name]}, or "
                "leave it out of tracker"
            )


class RemoteTracker:
    """One tracker in a thread of its own."""

    def __init__(
        self, name: str, run_dir: str | Path, config: Values, *, project: str
    ) -> None:
        """``config``: names and plain values, that the tracker shows of the run."""
        self._name = name
        self._records: queue.Queue[tuple[int, Values] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._error: Exception | None = None
        self._thread: threading.Thread = start_thread(
            self._work, Path(run_dir), dict(config), project, name=f"tracker {name}"
        )

    def record(self, step: int, values: Values) -> None:
        """Pass values on. Raises TrackerError if the tracker has failed."""
        self._raise_error()
        try:
            self._records.put_nowait((step, values))
        except queue.Full:
            raise TrackerError(f"{_MOST_WAITING} records wait for it") from None

    def close(self) -> None:
        """Send the rest. Raises TrackerError if that fails, or takes too long."""
        try:
            self._records.put_nowait(None)
        except queue.Full:
            raise TrackerError(f"{_MOST_WAITING} records wait for it") from None
        self._thread.join(CLOSE_SECONDS)
        self._raise_error()
        if self._thread.is_alive():
            raise TrackerError(f"it has not finished in {CLOSE_SECONDS:g} s")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise TrackerError(" ".join(repr(self._error).split())[:300])

    def _work(self, run_dir: Path, config: dict[str, Any], project: str) -> None:
        try:
            tracker = _start(self._name, run_dir, config, project)
            while (record := self._records.get()) is not None:
                step, values = record
                tracker.log(dict(values), step=step)
            tracker.finish()
        except (Exception, SystemExit) as error:
            self._error = error if isinstance(error, Exception) else TrackerError(error)


def _start(name: str, run_dir: Path, config: dict[str, Any], project: str) -> Any:
    """The tracker of accelerate, started, or continued in a resumed run."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    known = _read_names(run_dir)
    settings: dict[str, Any]
    run_name = os.path.basename(os.path.abspath(run_dir))
    called = known.get(name) or f"{run_name}-{secrets.token_hex(4)}"
    if name == "wandb":
        own = {"id": _plain_id(called), "name": run_name, "dir": str(run_dir)}
        settings = {"resume": "allow", **own}
    elif name == "trackio":
        settings = {"name": called, "resume": "allow"}
    else:
        settings = {"run_name": run_name, "run_id": known.get(name)}
    tracker: Any = LOGGER_TYPE_TO_CLASS[name](project, **settings)
    tracker.start()
    if name == "mlflow":
        called = str(tracker.tracker.info.run_id)
    if name not in known:  # parameters of MLflow can be set once
        tracker.store_init_configuration(config)
        names = {**_read_names(run_dir), name: called}
        write_atomic(run_dir / FILE_NAME, json.dumps(names, indent=1) + "\n")
    return tracker


def _plain_id(text: str) -> str:
    """``text`` as W&B takes ids."""
    kept = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in text
    )
    return kept[-64:]


def _read_names(run_dir: Path) -> dict[str, str]:
    try:
        names = json.loads((run_dir / FILE_NAME).read_bytes())
        return {str(name): str(called) for name, called in names.items()}
    except (OSError, ValueError, AttributeError):
        return {}
