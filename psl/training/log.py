"""What a run tells the world: its first files, metrics.jsonl, trackers, progress.

Owns the files of a run folder that are not checkpoints. Only the main process writes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accelerate
import torch
from tqdm import tqdm

from psl.config import to_yaml
from psl.evaluation.labels import Labels
from psl.evaluation.score_tables import ScoreTable
from psl.training.tracking import Tracking
from shards import __version__
from shards.system.files import write_atomic
from shards.system.writing import naming_write

CONFIG_NAME, FACTS_NAME, METRICS_NAME = "config.yaml", "run.json", "metrics.jsonl"


ON_BAR = {"epoch", "loss", "learning_rate", "chunks_per_second", "wait_share"}
ON_BAR |= {"valid_mAP", "skipped_steps"}
"""What the progress bar has room for."""


def write_first_files(run_dir: str | Path, config: Any, world_size: int) -> None:
    """config.yaml, and run.json: code version, versions of libraries, command."""
    facts = {
        "command": sys.orig_argv,
        "version": __version__,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "world_size": world_size,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_config(run_dir, config)
    write_atomic(Path(run_dir, FACTS_NAME), json.dumps(facts, indent=1) + "\n")


def write_config(run_dir: str | Path, config: Any) -> None:
    """config.yaml: the configuration in force, every key."""
    write_atomic(Path(run_dir, CONFIG_NAME), to_yaml(config))


def note_changes(run_dir: str | Path, step: int, changes: Sequence[Any]) -> None:
    """Add to run.json that keys of the configuration differ after ``step``.

    ``changes`` are dataclasses of JSON values.
    """
    path = Path(run_dir, FACTS_NAME)
    facts = json.loads(path.read_bytes()) if path.exists() else {}
    noted = [{"after_step": step, **asdict(change)} for change in changes]
    facts["changes"] = [*facts.get("changes", []), *noted]
    write_atomic(path, json.dumps(facts, indent=1) + "\n")


def _commit() -> str | None:
    """The git commit of the code, with ``+`` if files were changed; None if unknown."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always"]
    command += ["--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class RunLog:
    """The running record of training; silent on all but the main process."""

    def __init__(
        self,
        run_dir: str | Path,
        *,
        main: bool,
        start: int,
        total: int,
        open_tracking: Callable[[], Tracking],
    ) -> None:
        """``start`` of ``total`` steps are done; records of later ones are dropped.

        ``open_tracking`` is called by the main process.
        """
        self._path = Path(run_dir, METRICS_NAME)
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            desc=Path(run_dir).name,
            disable=not main,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
        )
        self._tracking: Tracking | None = None
        if main:
            _drop_records_after(self._path, start)
            self._tracking = open_tracking()

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def record(self, step: int, **values: float) -> None:
        """Write values to metrics.jsonl, trackers and the progress bar."""
        if self._tracking is None:
            return
        line = json.dumps({"step": step, **values}, allow_nan=False)
        with (
            naming_write(self._path),
            open(self._path, "a", encoding="utf-8") as stream,
        ):
            stream.write(line + "\n")
        self._tracking.record(step, values)
        shown = {
            name: f"{value:.4g}" for name, value in values.items() if name in ON_BAR
        }
        self._bar.set_postfix(shown, refresh=False)

    def show(self, step: int, labels: Labels, scores: ScoreTable) -> None:
        """Curves and clips of a validation of V clips: weak labels, scores [V, C]."""
        if self._tracking is not None:
            self._tracking.show(step, labels, scores)

    def close(self) -> None:
        """Flush everything."""
        self._bar.close()
        if self._tracking is not None:
            self._tracking.close()


def _drop_records_after(path: Path, step: int) -> None:
    """Forget records of steps that a resumed run does again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            write_atomic(path, "".join(kept))


def _step_of(line: str) -> float:
    """The step of a record; infinite for a line that a kill cut short."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except ValueError:
        return float("inf")
