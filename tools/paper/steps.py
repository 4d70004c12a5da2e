"""Commands that are run one after the other, and skipped once their result is there.

Owns a step, a chain of steps with its logs, and how psl's commands are called. Knows no
profile and no table.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from psl.training.config import DEFAULT_BATCH_SIZE, DataConfig, chunks_in
from shards.system.exits import JobError

DEFAULT_CHUNK = DataConfig.chunk_seconds
"""Of psl.train, where no recipe says otherwise."""


@dataclass(frozen=True)
class Step:
    """One command and the file that shows it is done."""

    name: str
    command: list[str]
    result: Path


def python(*words: str | Path) -> list[str]:
    """The words of a command of this Python."""
    return [sys.executable, *map(str, words)]


def train_step(name: str, run_dir: Path, processes: int, *words: str | Path) -> Step:
    """psl.train with ``words`` on one machine, in ``processes`` processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", str(processes)]
    command = python(
        *(launcher if processes > 1 else []),
        *("-m", "psl.train", *words, f"run_dir={run_dir}"),
    )
    return Step(f"train {name}", command, run_dir / "result.json")


def label_step(
    teacher: str | Path,
    audio: Path,
    out: Path,
    chunk_seconds: int,
    hop_seconds: float | None = None,
) -> Step:
    """psl.label: the teacher's probabilities of each chunk of ``audio``."""
    command = python(
        *("-m", "psl.label", f"teacher={teacher}", f"audio={audio}", f"out={out}"),
        f"chunk_seconds={chunk_seconds}",
        *([] if hop_seconds is None else [f"hop_seconds={hop_seconds:g}"]),
    )
    name = (
        f"label {audio.name}, {chunk_seconds} s every {hop_seconds or chunk_seconds} s"
    )
    return Step(name, command, out / "index.json")


def evaluate_step(name: str, run_dir: Path, audio: Path) -> Step:
    """psl.evaluate of a run's best checkpoint, into the run's folder ``eval``."""
    command = python(
        *("-m", "psl.evaluate", f"checkpoint={run_dir}", f"out={run_dir}/eval"),
        f"audio={audio}",
    )
    return Step(f"evaluate {name}", command, run_dir / "eval" / "metrics.json")


class Chain:
    """Runs steps, with their output in ``root/logs``, and says how each one went."""

    def __init__(self, root: Path) -> None:
        self._logs = root / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def say(self, text: str) -> None:
        """Print a line with the minutes since the start."""
        minutes, seconds = divmod(round(time.monotonic() - self._start), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)

    def run(self, steps: Sequence[Step], *, show: bool = True) -> None:
        """Run steps one after the other; ``show`` their progress bars, too.

        Raises JobError with the end of the output of a step that fails, and for a
        result that was made with other words.
        """
        for step in steps:
            log = self._logs / f"{'-'.join(step.result.parent.parts)}.log"
            made_by = log.with_suffix(".command")
            if step.result.exists():
                _check_made_by(step, made_by)
                self.say(f"{step.name}: done already ({step.result})")
                continue
            self.say(f"{step.name}: {shlex.join(['python', *step.command[1:]])}")
            with open(log, "w", encoding="utf-8") as stream:
                status = subprocess.run(
                    step.command,
                    env=self._environment,
                    stdout=stream,
                    stderr=None if show else stream,
                ).returncode
            if status:
                tail = log.read_text(encoding="utf-8")[-2000:]
                raise JobError(f"{step.name} failed ({status}), see {log}: {tail}")
            made_by.write_text(_asked_for(step.command), encoding="utf-8")

    def run_lanes(self, chains: Sequence[Sequence[Step]], lanes: int) -> None:
        """Run several chains of steps, ``lanes`` at a time."""
        with ThreadPoolExecutor(lanes) as pool:
            tasks = [pool.submit(self.run, steps, show=False) for steps in chains]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _asked_for(command: Sequence[str]) -> str:
    """What a command says of its own, a word a line; not who launches it, nor recipes.

    The demonstration and the tables come to the same students by other recipes.
    """
    modules = [place for place, word in enumerate(command) if word == "-m"]
    words = command[modules[-1] if modules else 1 :]
    return "\n".join([*sorted(word for word in words if ".yaml" not in word), ""])


def _check_made_by(step: Step, record: Path) -> None:
    """JobError if the result of ``step`` was made by something else than it."""
    if not record.exists():  # by hand, or by an earlier version
        return
    made_by, expected = record.read_text(encoding="utf-8"), _asked_for(step.command)
    if made_by != expected:
        found, wanted = set(made_by.splitlines()), set(expected.splitlines())
        raise JobError(
            f"{step.name}: {step.result} was made with "
            f"{' '.join(sorted(found - wanted)) or 'less'}, expected "
            f"{' '.join(sorted(wanted - found)) or 'less'}; take another --root, or "
            f"remove {step.result.parent} to make it again"
        )


def global_batch_size(configs: Sequence[Path]) -> int:
    """Chunks per optimizer step that ``configs`` ask psl.train for."""
    batch, batch_seconds, chunk_seconds = DEFAULT_BATCH_SIZE, None, DEFAULT_CHUNK
    for path in configs:
        layer = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        batch = layer.get("global_batch_size", batch)
        batch_seconds = layer.get("batch_seconds", batch_seconds)
        chunk_seconds = layer.get("data", {}).get("chunk_seconds", chunk_seconds)
    if batch_seconds is not None:
        return chunks_in(batch_seconds, chunk_seconds)
    return batch or DEFAULT_BATCH_SIZE


def num_processes(batch: int) -> int:
    """As many as there are GPUs and can share a ``batch``; two on a CPU."""
    import torch  # slow, and only this function needs it

    most = torch.cuda.device_count() or 2
    return max(n for n in range(1, most + 1) if batch % n == 0)
