"""What the steps of tools/gpu/check.py run their commands with.

Owns how much there is to do, the processes, and how losses are compared.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LEARNING_RATE = 1e-4
"""Small, so that a difference of one step does not grow in the next."""


class Skipped(Exception):
    """Why a step was not tried."""


class StepFailed(Exception):
    """What a step found wrong."""


@dataclass(frozen=True)
class Size:
    """How much there is to do."""

    num_classes: int
    num_clips: int
    clip_seconds: int
    chunk_seconds: int
    batch_size: int
    model: Mapping[str, Any]
    bf16_tolerance: float
    """As FULL_TOLERANCE of tools/gpu/chain.py."""
    speed_clips: int
    """Clips of 10 s to measure with."""
    speed_batches: tuple[int, ...]
    speed_precisions: tuple[str, ...]
    speed_chunks: int
    """Chunks of 2 s that a measurement takes."""
    speed_rounds: int
    """Rounds in which kinds of steps take turns."""
    fed_steps: int
    """Steps over which the growth of memory is measured."""


SIZES = {
    "cuda": Size(
        num_classes=527,
        num_clips=64,
        clip_seconds=10,
        chunk_seconds=2,
        batch_size=32,
        model={"dropout": 0.0},
        bf16_tolerance=0.02,  # the full-size model made 0.0009 on a CPU (2026-11-23)
        speed_clips=4096,
        speed_batches=(32, 256),
        speed_precisions=("no", "bf16"),
        speed_chunks=15360,
        speed_rounds=5,
        fed_steps=500,
    ),
    "cpu": Size(  # shows that the tool works
        num_classes=4,
        num_clips=40,
        clip_seconds=2,
        chunk_seconds=1,
        batch_size=8,
        model={
            "width": 0.25,
            "last_channels": 32,
            "time_stride": 16,
            "dropout": 0.0,
            "front_end": {"n_fft": 1024, "hop_length": 320, "n_mels": 32},
        },
        bf16_tolerance=0.1,  # statistics of few values: 0.028 was seen
        speed_clips=8,
        speed_batches=(8,),
        speed_precisions=("no",),
        speed_chunks=32,
        speed_rounds=1,
        fed_steps=3,
    ),
}


@dataclass(frozen=True)
class Check:
    """Where and how long to try things."""

    device: str
    folder: Path
    deadline: float
    """On the monotonic clock, s."""
    facts: Mapping[str, Any]
    """The machine, as tools/gpu/speed.py tells it."""

    @staticmethod
    def open(device: str, folder: Path, *, deadline: float) -> Check:
        """Look at the machine, in a process of its own."""
        check = Check(device, folder, deadline, {})
        facts = check.measure("facts", {})
        return Check(device, folder, deadline, facts)

    def within(self, seconds: float) -> Check:
        """The same, with a deadline in so many seconds if that is sooner."""
        return replace(self, deadline=min(self.deadline, time.monotonic() + seconds))

    @property
    def size(self) -> Size:
        """How much is tried on the device."""
        return SIZES[self.device]

    @property
    def num_devices(self) -> int:
        """GPUs; on the CPU, two processes take their part."""
        return len(self.facts["gpus"]) if self.device == "cuda" else 2

    def run(
        self,
        name: str,
        words: Sequence[str | Path],
        *,
        succeeds: bool = True,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``python WORDS``, its output in logs/``name``.txt.

        Raises StepFailed if it takes too long, or unless it ``succeeds`` as told.
        """
        log = self.folder / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *map(str, words)]
        limit = max(1.0, self.deadline - time.monotonic())
        with open(log, "w", encoding="utf-8") as stream:
            stream.write(shlex.join(command) + "\n")
            stream.flush()
            status = _run(command, stream, limit, {**self._environment(), **variables})
        if succeeds == (status == 0):
            return
        how = f"took over {limit:.0f} s" if status is None else f"gave status {status}"
        tail = log.read_text(encoding="utf-8", errors="replace")[-1500:]
        raise StepFailed(f"{name} {how}: {tail}")

    def measure(self, what: str, task: Mapping[str, Any], name: str = "") -> Any:
        """What tools/gpu/speed.py ``what`` finds."""
        name = name or what
        out = self.folder / f"{name}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        words = ["-m", "tools.gpu.speed", what, json.dumps(task), str(out)]
        self.run(name, words)
        return json.loads(out.read_text())

    def train(
        self,
        name: str,
        *words: str,
        launcher: Sequence[str] = (),
        succeeds: bool = True,
        variables: Mapping[str, str] = MappingProxyType({}),
        timeout_seconds: int = 60,
    ) -> dict[int, float]:
        """``psl.train`` one epoch of the clips into ``name``; the loss of each step."""
        size = self.size
        values = [
            f"run_dir={self.folder / name}",
            f"data.audio=[{self.folder / 'audio'}]",
            f"data.valid={self.folder / 'audio'}",
            f"data.chunk_seconds={size.chunk_seconds}",
            f"model={json.dumps(dict(size.model))}",
            f"global_batch_size={size.batch_size}",
            *("epochs=1", "log_every=1", f"optim.learning_rate={LEARNING_RATE}"),
            f"attempt.timeout_seconds={timeout_seconds}",
        ]
        command = [*launcher, "-m", "psl.train", *values, *words]
        self.run(name, command, succeeds=succeeds, variables=variables)
        path = self.folder / name / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        losses = {r["step"]: r["loss"] for r in records if "loss" in r}
        wrong = [step for step, loss in losses.items() if not math.isfinite(loss)]
        if wrong or (succeeds and len(losses) != self.num_steps):
            raise StepFailed(f"{name}: losses of {self.num_steps} steps: {losses}")
        return losses

    @property
    def num_steps(self) -> int:
        """Of an epoch."""
        size = self.size
        chunks = size.num_clips * size.clip_seconds // size.chunk_seconds
        return chunks // size.batch_size

    def torchrun(self, processes: int) -> list[str]:
        """The words that start ``processes`` ranks."""
        words = ["-m", "torch.distributed.run", "--standalone"]
        return [*words, "--nproc-per-node", str(processes)]

    def _environment(self) -> dict[str, str]:
        path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        return found if self.device == "cuda" else {**found, **WITHOUT_GPU}


WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def _run(
    command: list[str], stream: Any, limit: float, environment: dict[str, str]
) -> int | None:
    """The status of a command; None if it was killed at the limit."""
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also what an ended launcher left behind, which would hold the GPU
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def compare(
    expected: Mapping[int, float], found: Mapping[int, float], tolerance: float
) -> dict[str, float]:
    """Largest relative difference of the losses of the same steps, and the first's.

    Raises StepFailed if it is over ``tolerance``.
    """
    if expected.keys() != found.keys():
        raise StepFailed(f"steps {sorted(found)}, expected {sorted(expected)}")
    differences = {
        step: abs(found[step] - loss) / abs(loss) for step, loss in expected.items()
    }
    # NaN is neither more nor less than anything, and would not be found
    worst = max(
        differences,
        key=lambda step: (
            math.inf if math.isnan(differences[step]) else differences[step]
        ),
    )
    if not differences[worst] <= tolerance:
        raise StepFailed(
            f"loss of step {worst} is {found[worst]:.6g}, in the plain run "
            f"{expected[worst]:.6g}; they may differ by {tolerance:.1%}"
        )
    first = differences[min(differences)]
    return {"largest": differences[worst], "first": first, "tolerance": tolerance}
