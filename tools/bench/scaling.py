"""How much faster two processes train than one, and where the rest goes.

Trains with one process, with two that know nothing of each other, and with two that
share each step, one thread each, in turn, on audio it makes itself. Where two strangers
are slower than one, the machine is the limit and not the communication.
tools/bench/project_scaling.py goes from there to many GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch

from psl.config import parse
from psl.data.batch import Batch
from psl.data.loader import WaitMeter
from psl.labelling.store import write_labels
from psl.training.batches import batches
from psl.training.config import TrainConfig
from psl.training.optim import optimizer_tensors
from psl.training.run import Run
from psl.weights.checkpoint import TrainingState, save_checkpoint
from shards.audio.members import encode
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.schema import ClipInfo
from shards.system.exits import run_main
from shards.system.files import write_atomic
from tools.bench.opened import opened_run

RATE, CLIP_SECONDS, CHUNK_SECONDS, NUM_SHARDS = 16000, 10, 2.0, 4
CHUNKS_PER_CLIP = round(CLIP_SECONDS / CHUNK_SECONDS)
CHECKPOINT_SHARE = 0.05
"""Of the time of training, that checkpoints may take."""
LAYOUTS = {"one": (1, 1), "two_strangers": (2, 1), "two_together": (1, 2)}
"""Jobs at the same time, and processes in each."""


@dataclass(frozen=True)
class Figures:
    """What one process saw."""

    chunks_per_second: float
    """Of the process, waiting included."""
    step_seconds: float
    """Median, from batch to batch."""
    data_seconds: float
    """Mean of what a step waits for its batch."""
    communication_seconds: float
    """Median step less median step without sharing gradients: what is not hidden."""
    checkpoint_seconds: float
    """Median of a checkpoint, optimizer and all, on rank 0."""
    gradient_bytes: int
    """What a process gives to the others in each step."""


def make_dataset(folder: Path, num_clips: int, *, num_classes: int = 2) -> None:
    """``num_clips`` clips of noise with one weak label each."""
    classes = [f"/m/{number}" for number in range(num_classes)]
    rng = np.random.default_rng(0)
    builder = DatasetBuilder(
        folder=folder,
        kind="audio",
        classes=Classes(tuple(classes), tuple(classes)),
        properties={"codec": "wav", "sample_rate": RATE},
        provenance={"made_by": "bench_scaling"},
    )
    builder.begin()
    names = [f"{number:06d}.tar" for number in range(NUM_SHARDS)]
    for number, name in enumerate(names):
        builder.add(name, _noise(rng, range(number, num_clips, NUM_SHARDS), classes))
    builder.publish(names)


def make_labels(folder: Path, audio: Path) -> None:
    """A random dense label for each chunk of the clips of ``make_dataset``."""
    index, rng = open_index(audio, kind="audio"), np.random.default_rng(0)
    shape = (CHUNKS_PER_CLIP, len(index.classes))
    labels = {index.key(row): rng.random(shape) for row in range(len(index))}
    write_labels(folder, audio, labels, chunk_seconds=CHUNK_SECONDS)


def _noise(
    rng: np.random.Generator, numbers: Sequence[int], classes: Sequence[str]
) -> Iterator[Row]:
    num_samples = RATE * CLIP_SECONDS
    for number in numbers:
        samples = rng.integers(-9999, 9999, num_samples).astype(np.int16)
        label = number % len(classes)
        info = ClipInfo(f"n{number}", 0.0, num_samples, RATE, (classes[label],))
        yield Row(
            key=f"Yn{number}_0",
            suffix="wav",
            data=encode(samples, codec="wav", sample_rate=RATE),
            count=num_samples,
            labels=(label,),
            extra={"json": info.to_bytes()},
        )


def measure_process(config: TrainConfig, num_steps: int, out: Path) -> None:
    """Train ``num_steps`` steps, with and without sharing in turn; write Figures.

    Collective. Of each turn of five steps the first is not counted.
    """
    with opened_run(config) as (run, state):
        rank = run.accelerator.process_index
        figures = _time_steps(run, state, num_steps)
        figures = replace(figures, checkpoint_seconds=_time_checkpoint(run, state))
        write_atomic(out.with_suffix(f".{rank}.json"), json.dumps(asdict(figures)))


def _time_steps(run: Run, state: TrainingState, num_steps: int) -> Figures:
    fetched = WaitMeter(endless(run, state))
    times: dict[bool, list[float]] = {True: [], False: []}
    waits = []
    share_of_rank = run.config.chunks_per_step // run.accelerator.num_processes
    for number in range(num_steps):
        shares = number // 5 % 2 == 0
        before, start = fetched.waited_seconds, time.perf_counter()
        batch = next(fetched)
        with _sharing(shares):
            run.step(batch, number + 1, learning_rate=1e-4, stop=False)
        if number % 5:
            times[shares].append(time.perf_counter() - start)
            waits.append(fetched.waited_seconds - before)
    whole, apart = median(times[True]), median(times[False])
    parameters = run.bare_model.parameters()
    return Figures(
        chunks_per_second=share_of_rank / whole,
        step_seconds=whole,
        data_seconds=sum(waits) / len(waits),
        communication_seconds=whole - apart,
        checkpoint_seconds=0.0,
        gradient_bytes=sum(p.numel() * p.element_size() for p in parameters),
    )


def endless(run: Run, state: TrainingState) -> Iterator[Batch]:
    """This rank's batches, epoch after epoch."""
    for epoch in itertools.count():
        yield from batches(run, replace(state, epoch=epoch))


def _sharing(shares: bool) -> contextlib.AbstractContextManager[object]:
    if shares:
        return contextlib.nullcontext()
    return mock.patch("psl.distributed.collectives.is_alone", lambda: True)


def _time_checkpoint(run: Run, state: TrainingState) -> float:
    if not run.accelerator.is_main_process:
        return 0.0
    seconds = []
    for number in range(3):
        start = time.perf_counter()
        save_checkpoint(
            Path(run.config.run_dir, "timed", str(number)),
            model=run.bare_model,
            optimizer=optimizer_tensors(run.step.optimizer),
            model_config=run.config.model,
            classes=run.valid.index.classes,
            training=state,
        )
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def measure(args: argparse.Namespace) -> None:
    """All layouts in turn, ``rounds`` times; the table, and a JSON with everything."""
    found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in LAYOUTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "data", args.clips)
        for number, layout in itertools.product(range(args.rounds), LAYOUTS):
            place = folder / f"{layout}{number}"
            found[layout].append(_run_layout(layout, folder / "data", place, args))
    speeds = {
        layout: [sum(p["chunks_per_second"] for p in round) for round in rounds]
        for layout, rounds in found.items()
    }
    one, strangers, together = (median(speeds[layout]) for layout in LAYOUTS)
    result = {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor()},
        "torch": torch.__version__,
        "batch_per_process": args.batch,
        "steps": args.steps,
        "chunks_per_second": {"one": one, "strangers": strangers, "two": together},
        "efficiency": together / (2 * one),
        "efficiency_of_strangers": strangers / (2 * one),
        "rounds": found,
    }
    if args.out:
        write_atomic(args.out, json.dumps(result, indent=1) + "\n")
    print(_table(result, found["two_together"]))


def _run_layout(
    layout: str, data: Path, folder: Path, args: argparse.Namespace
) -> list[dict[str, float]]:
    """The figures of every process of a layout."""
    num_jobs, world_size = LAYOUTS[layout]
    launcher = [sys.executable]
    if world_size > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(world_size)]
    jobs = []
    for number in range(num_jobs):
        values = {
            "run_dir": str(folder / f"run{number}"),
            "data": {
                "audio": [str(data)],
                "valid": str(data),
                "chunk_seconds": CHUNK_SECONDS,
            },
            "model": json.loads(args.model),
            "global_batch_size": args.batch * world_size,
            "loader": {"threads": 1},
        }
        task = {"config": values, "out": str(folder / f"job{number}")}
        words = ["--process", json.dumps(task), "--steps", str(args.steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        jobs.append(
            subprocess.Popen(
                [*launcher, "-m", "tools.bench.scaling", *words], env=environment
            )
        )
    statuses = [job.wait() for job in jobs]
    if any(statuses):
        raise RuntimeError(f"{layout}: a process failed, see above")
    return [json.loads(path.read_text()) for path in sorted(folder.glob("job*.json"))]


def steps_per_checkpoint(checkpoint_seconds: float, step_seconds: float) -> int:
    """Steps between checkpoints that then take CHECKPOINT_SHARE of the time."""
    factor = 1 / CHECKPOINT_SHARE - 1
    return math.ceil(factor * (checkpoint_seconds / step_seconds))


def _table(result: dict[str, Any], together: list[list[dict[str, float]]]) -> str:
    speeds = result["chunks_per_second"]
    ranks = [process for round in together for process in round]
    step = median(process["step_seconds"] for process in ranks)
    saving = median(round[0]["checkpoint_seconds"] for round in together)

    def part(name: str) -> str:
        seconds = median(process[name] for process in ranks)
        return f"{1000 * seconds:8.1f} ms, {seconds / step:.1%} of the step"

    return "\n".join(
        [
            f"one process            {speeds['one']:8.1f} chunks/s",
            f"two strangers          {speeds['strangers']:8.1f} chunks/s "
            f"({result['efficiency_of_strangers']:.3f} of twice one)",
            f"two together           {speeds['two']:8.1f} chunks/s "
            f"({result['efficiency']:.3f} of twice one)",
            f"step together          {1000 * step:8.1f} ms",
            f"  waiting for data     {part('data_seconds')}",
            f"  communication seen   {part('communication_seconds')}",
            f"a checkpoint           {1000 * saving:8.1f} ms, {CHECKPOINT_SHARE:.0%} "
            f"of the time if every {steps_per_checkpoint(saving, step)} steps",
        ]
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.scaling",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m tools.bench.scaling --steps 40 --out scaling.json",
    )
    add = parser.add_argument
    add("--steps", type=int, default=60, help="of each process in a round")
    add("--rounds", type=int, default=3, help="of all layouts in turn")
    add("--batch", type=int, default=32, help="chunks per process and step")
    add("--clips", type=int, default=256, help="of 10 s to make")
    add("--model", default="{}", help="values of the model's config, JSON")
    add("--out", help="JSON to write")
    add("--process", help=argparse.SUPPRESS)  # configuration and output of one process
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.bench.scaling``."""
    args = _arguments(argv)
    if args.process is None:
        measure(args)
    else:
        task = json.loads(args.process)
        config = parse(TrainConfig, task["config"], where="bench_scaling")
        measure_process(config, args.steps, Path(task["out"]))


if __name__ == "__main__":
    run_main(main)
