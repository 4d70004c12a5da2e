"""How fast psl.train is beside the way of the published code, and beside a bare step.

Trains the same model on the same audio in three ways, in turn, in one process: as the
published code works (an HDF5 file read chunk by chunk, a teacher that labels each
batch, three waits for the device a step, torch's Adam as it comes), psl.train's own
loop with stored labels, and the step alone on a batch that is there. Ratios are taken
within a round. Written from a description of how that code works; none of it is here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from psl.config import parse
from psl.distributed import runtime
from psl.models.families import build_from_config
from psl.training import loop
from psl.training.config import TrainConfig
from shards.format.index import open_index
from shards.system.exits import run_main
from shards.system.files import write_atomic
from tools.bench.contenders import Audio, Hdf5Chunks, write_hdf5
from tools.bench.opened import opened_run
from tools.bench.scaling import (
    CHUNK_SECONDS,
    CHUNKS_PER_CLIP,
    make_dataset,
    make_labels,
)
from tools.gpu.rounds import BareStep

NUM_CLASSES = 527
WAYS = ("published", "ours", "bare")
ORDERS = list(itertools.permutations(WAYS))
"""Of the rounds: what comes after what must not count."""


@dataclass(frozen=True)
class Round:
    """Chunks per second of each way, one after the other."""

    published: float
    ours: float
    bare: float

    def ratio(self, of: str, to: str) -> float:
        """The speed of one way over that of another."""
        return float(getattr(self, of) / getattr(self, to))


class PublishedChunks(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A chunk of the HDF5 file, and the weak labels of its clip as a row of zeros."""

    def __init__(self, audio: Audio) -> None:
        self._chunks = Hdf5Chunks(audio)
        table = audio.wav.table
        self._labels = [
            table.label[slice(*table.label_start[row : row + 2])].tolist()
            for row in range(len(audio.wav))
            for _ in range(CHUNKS_PER_CLIP)
        ]

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        target = torch.zeros(NUM_CLASSES)
        target[self._labels[number]] = 1.0
        return self._chunks[number], target


def published_steps(
    config: TrainConfig, audio: Audio, device: torch.device, workers: int
) -> Callable[[], None]:
    """An epoch as the published code makes it."""
    model, teacher = (_model(config, device) for _ in range(2))
    model.train()
    teacher.eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.BCELoss()
    batches = torch.utils.data.DataLoader(
        PublishedChunks(audio),
        batch_size=config.chunks_per_step,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )

    def epoch() -> None:
        losses, largest, shares = [], [], []
        for waveform, weak in batches:
            waveform = waveform.to(device)
            lengths = torch.full((len(waveform),), waveform.shape[1], device=device)
            with torch.no_grad():
                targets = teacher(waveform, lengths)[0]
            optimizer.zero_grad()
            probs = model(waveform, lengths)[0]
            loss = criterion(probs, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            largest.append(probs.max().item())
            shares.append(weak.mean().item())

    return epoch


def bare_steps(config: TrainConfig, num_steps: int) -> Callable[[], None]:
    """As many steps on one batch that is there: model, loss, gradient, update."""
    step = BareStep(config.model, NUM_CLASSES, config.chunks_per_step)

    def steps() -> None:
        for _ in range(num_steps):
            step()

    return steps


@contextmanager
def our_steps(
    config: TrainConfig,
) -> Iterator[tuple[torch.device, int, Callable[[], None]]]:
    """The device, steps of an epoch, and psl.train's own loop over the next epoch."""
    with opened_run(config) as (run, state):

        def epoch() -> None:
            nonlocal state
            state = loop._take_steps(run, state)
            assert state.step_in_epoch == run.plan.num_steps
            state = replace(state, epoch=state.epoch + 1, step_in_epoch=0)

        yield run.accelerator.device, run.plan.num_steps, epoch


def _model(config: TrainConfig, device: torch.device) -> nn.Module:
    model = build_from_config(config.model, NUM_CLASSES)
    return runtime.move_model(model, device)


def measure(folder: Path, args: argparse.Namespace) -> list[Round]:
    """``args.rounds`` rounds, after one to warm up."""
    audio = _make_audio(folder, args.batch * args.steps)
    config = parse(TrainConfig, _values(folder, args), where="bench_train")
    with our_steps(config) as (device, num_steps, ours):
        ways = {
            "published": published_steps(config, audio, device, args.workers),
            "ours": ours,
            "bare": bare_steps(config, num_steps),
        }
        chunks, found = num_steps * args.batch, []
        for number in range(args.rounds + 1):
            order = ORDERS[number % len(ORDERS)]
            seconds = {way: _seconds(ways[way], device) for way in order}
            found.append(Round(**{way: chunks / seconds[way] for way in WAYS}))
            print(f"round {number} of {args.rounds}: {found[-1]}", file=sys.stderr)
    return found[1:]


def _seconds(steps: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    steps()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _make_audio(folder: Path, num_chunks: int) -> Audio:
    """Clips of noise, as WAV shards and as HDF5, and a label for each chunk."""
    place, num_clips = folder / "wav", -(-num_chunks // CHUNKS_PER_CLIP)
    make_dataset(place, num_clips, num_classes=NUM_CLASSES)
    index = open_index(place, kind="audio")
    write_hdf5(folder / "clips.h5", index)
    make_labels(folder / "labels", place)
    return Audio(folder, {"wav": index})


def _values(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    place = str(folder / "wav")
    return {
        "run_dir": str(folder / "run"),
        "data": {
            "audio": [place],
            "valid": place,
            "labels": [str(folder / "labels")],
            "chunk_seconds": CHUNK_SECONDS,
        },
        "model": json.loads(args.model),
        "global_batch_size": args.batch,
        "epochs": args.rounds + 2,
        "tracker": [],
        **({"loader": {"threads": args.threads}} if args.threads else {}),
    }


def table(found: Sequence[Round]) -> str:
    """Markdown: median speeds, and ratios within a round, median and range."""
    lines = ["| | chunks/s |", "|---|---|"]
    names = {
        "published": "the published way of working",
        "ours": "psl.train",
        "bare": "the bare step",
    }
    for way in WAYS:
        speed = median(getattr(round, way) for round in found)
        lines.append(f"| {names[way]} | {speed:.1f} |")
    lines += ["", "| ratio | median | range |", "|---|---|---|"]
    for to in ("published", "bare"):
        ratios = sorted(round.ratio("ours", to) for round in found)
        lines.append(
            f"| psl.train / {names[to]} | {median(ratios):.3f} "
            f"| {ratios[0]:.3f} to {ratios[-1]:.3f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.bench.train``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.train",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: OMP_NUM_THREADS=1 python -m tools.bench.train --rounds 15",
    )
    add = parser.add_argument
    add("--rounds", type=int, default=15, help="of all three, after one to warm up")
    add(
        "--steps",
        type=int,
        default=5,
        help="of each in a round: short, as machines vary",
    )
    add("--batch", type=int, default=32, help="chunks per step")
    add("--workers", type=int, default=2, help="of the published way's DataLoader")
    add("--threads", type=int, help="of psl.train's loader")
    add("--model", default="{}", help="values of the model's config, JSON")
    add("--out", help="JSON to write")
    args, load_before = parser.parse_args(argv), os.getloadavg()[0]
    if min(args.rounds, args.steps, args.batch - 1) < 1 or args.workers < 0:
        parser.error("expected positive numbers, and 2 chunks per step or more")
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), args)
    if args.out:
        rounds = [asdict(round) for round in found]
        facts = {"torch": torch.__version__, "command": sys.orig_argv}
        text = json.dumps({**facts, "rounds": rounds}, indent=1)
        write_atomic(args.out, text + "\n")
    print(table(found))
    print(
        f"\n`python {shlex.join(sys.orig_argv[1:])}`, {runtime.local_device()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} torch threads, "
        f"{len(os.sched_getaffinity(0))} cores, load average {load_before:.1f} before "
        f"and {os.getloadavg()[0]:.1f} at the end."
    )


if __name__ == "__main__":
    run_main(main)
