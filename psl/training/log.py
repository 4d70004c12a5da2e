"""What a run tells the world: its first files, metrics.jsonl, TensorBoard, progress.

Owns the files of a run folder that are not checkpoints. Only the main process writes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
import yaml
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from psl.config import parse, to_yaml
from psl.config_values import read_yaml
from psl.distributed.collectives import sum_over_ranks
from shards import __version__
from shards.system.files import write_atomic

CONFIG_NAME, METRICS_NAME = "config.yaml", "metrics.jsonl"
FREE_TO_CHANGE = (
    *("run_dir", "data", "loader", "log_every", "save_every", "keep_best"),
    *(
        "average_best",
        "accumulation_steps",
        "nonfinite",
        "max_skipped_steps",
        "attempt",
        "strategy",
    ),
)
"""Keys that may differ when a run is resumed: they do not change its result, or no more
than another number of processes does. Where the data lies may change; what it holds is
in the fingerprint of the plan."""


def check_same_config(run_dir: str | Path, config: Any) -> None:
    """ValueError if ``run_dir`` was begun with a config that gives another result."""
    path = Path(run_dir, CONFIG_NAME)
    if not path.exists():
        return
    # parsed, so that a key that is newer than the run has its default
    before = parse(type(config), read_yaml(path, type(config)), where=str(path))
    before, now = _as_read(before), _as_read(config)
    for key in (key for key in now if key not in FREE_TO_CHANGE):
        if before.get(key) != now[key]:
            raise ValueError(
                f"{path}: this run was begun with {key} = {before.get(key)}, not "
                f"{now[key]}; go on as before, or choose another run_dir, for which "
                f"start={run_dir} takes the weights of this one"
            )


def _as_read(config: Any) -> dict[str, Any]:
    return yaml.safe_load(to_yaml(config))


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
    write_atomic(Path(run_dir, CONFIG_NAME), to_yaml(config))
    write_atomic(Path(run_dir, "run.json"), json.dumps(facts, indent=1) + "\n")


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


@dataclass(frozen=True)
class LossSummary:
    """What happened since the last record."""

    loss: float
    """Mean over steps and ranks."""
    steps_per_second: float
    wait_share: float
    """Share of the time spent waiting for data, in [0, 1]."""


class LossWindow:
    """The steps between two records. Losses stay on the device until it closes."""

    def __init__(self, waited_seconds: float, world_size: int) -> None:
        """``waited_seconds``: time spent waiting for data so far, s."""
        self._world_size = world_size
        self._open(waited_seconds)

    def _open(self, waited_seconds: float) -> None:
        self._losses: list[Tensor] = []
        self._start, self._waited_before = time.perf_counter(), waited_seconds

    @property
    def num_steps(self) -> int:
        """Steps taken since it opened."""
        return len(self._losses)

    def add(self, loss: Tensor) -> None:
        """Take this rank's loss of one step."""
        self._losses.append(loss)

    def close(self, waited_seconds: float) -> LossSummary:
        """Sum up and begin anew. Collective."""
        total = sum_over_ranks(torch.stack(self._losses).mean()).item()
        seconds = time.perf_counter() - self._start
        summary = LossSummary(
            loss=total / self._world_size,
            steps_per_second=len(self._losses) / seconds,
            wait_share=(waited_seconds - self._waited_before) / seconds,
        )
        self._open(waited_seconds)
        return summary


class RunLog:
    """The running record of training; silent on all but the main process."""

    def __init__(
        self, run_dir: str | Path, *, main: bool, start: int, total: int
    ) -> None:
        """``start`` of ``total`` steps are done; records of later ones are dropped."""
        self._path = Path(run_dir, METRICS_NAME)
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            desc=Path(run_dir).name,
            disable=not main,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
        )
        self._board = None
        if main:
            _drop_records_after(self._path, start)
            board = str(Path(run_dir, "tensorboard"))
            self._board = SummaryWriter(board, purge_step=start + 1)

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def record(self, step: int, **values: float) -> None:
        """Write values to metrics.jsonl, TensorBoard and the progress bar."""
        if self._board is None:
            return
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Flush everything."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


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
