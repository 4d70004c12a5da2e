"""What gradients in buckets gain over one all-reduce, by model, network and bucket.

Two processes make optimizer steps of psl.train, a few in each way in turn, round after
round, so that what else the machine does falls on all ways alike. They talk over
loopback, whose rate ``--mbit`` limits, for them alone: in a network namespace of their
own, by the token bucket of the kernel. Both directions share that rate.

A GPU that computes leaves the host's cores free. ``--seconds`` plays that: the passes
only sleep, a third of the time in the forward pass, the rest in the backward pass, for
each parameter in proportion to its size. Without it the cores compute the model, and
whatever they do to talk is taken from that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from psl.config import parse
from psl.data.batch import Batch
from psl.distributed import launch
from psl.distributed.exchange import Exchange
from psl.models.families import build_model
from psl.training.config import TrainConfig
from psl.training.optim import build_optimizer
from psl.training.run import make_step
from psl.training.step import Stepper
from shards.system.exits import JobError, run_main
from shards.system.files import write_atomic

RATE, CHUNK_SECONDS = 16000, 2.0
SIZES: dict[str, dict[str, Any]] = {"ast": {"max_frames": 208}}
"""Settings of a model for chunks of 2 s, where it has a window."""
APART, FLAT = "not shared", "one all-reduce"

Times = dict[str, list[list[float]]]
"""Of each way: of each round, the seconds of its steps."""


class _Layer(torch.autograd.Function):
    """Takes a while to find the gradient of its weight."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, seconds: float) -> Tensor:
        ctx.seconds, ctx.shape = seconds, weight.shape
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        time.sleep(ctx.seconds)
        return gradients[0], torch.full(ctx.shape, 1e-6), None


class Played(nn.Module):
    """Has the parameters of a model, and takes ``seconds`` for a step's two passes."""

    def __init__(self, model: nn.Module, seconds: float) -> None:
        super().__init__()
        self.weights = nn.ParameterList(model.parameters())
        self.seconds = seconds

    def forward(self, waveform: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        """[B, 1] probabilities of clips, and of frames."""
        time.sleep(self.seconds / 3)
        total = sum(weight.numel() for weight in self.weights)
        values = waveform.mean(1, keepdim=True).requires_grad_()
        for weight in self.weights:
            seconds = self.seconds * 2 / 3 * weight.numel() / total
            values = _Layer.apply(values, weight, seconds)
        return values.sigmoid(), values


def time_ways(
    step: Stepper, batch: Batch, bucket_mb: Sequence[float], *, rounds: int, steps: int
) -> Times:
    """Seconds of ``steps`` steps in each way, in turn. Collective.

    Before them the way has one step that is not counted.
    """
    parameters = list(step.model.parameters())
    ways: dict[str, Exchange] = {APART: step.exchange, FLAT: step.exchange}
    for size in bucket_mb:
        ways[f"buckets of {size:g} MB"] = Exchange(parameters, bucket_mb=size)
    times: Times = {way: [] for way in ways}
    number = 0
    for turn in range(rounds):
        first = turn % len(ways)  # another way begins
        for way in [*ways][first:] + [*ways][:first]:
            step.exchange = ways[way]
            found = []
            for _ in range(1 + steps):
                number += 1
                start = time.perf_counter()
                with _sharing(way != APART):
                    step(batch, number, learning_rate=1e-6, stop=False)
                found.append(time.perf_counter() - start)
            times[way].append(found[1:])
    return times


def _sharing(shares: bool) -> contextlib.AbstractContextManager[object]:
    if shares:
        return contextlib.nullcontext()
    return mock.patch("psl.distributed.collectives.is_alone", lambda: True)


def measure_process(task: Mapping[str, Any]) -> None:
    """What one of the two processes does; rank 0 writes its times. Collective."""
    accelerator = launch.join_job()
    torch.manual_seed(0)
    num_classes = 527
    settings = {**SIZES.get(task["model"], {}), **task["settings"]}
    model = build_model(task["model"], num_classes=num_classes, **settings).train()
    if task["seconds"]:
        model, num_classes = Played(model, task["seconds"]), 1
    step = _stepper(accelerator, model)
    num_samples = round(RATE * CHUNK_SECONDS)
    chunks = task["chunks"]
    batch = Batch(
        pcm=torch.randint(-9999, 9999, (chunks, num_samples), dtype=torch.int16),
        num_samples=torch.full((chunks,), num_samples),
        targets=torch.rand(chunks, num_classes),
        is_whole=True,
    )
    times = time_ways(
        step, batch, task["bucket_mb"], rounds=task["rounds"], steps=task["steps"]
    )
    if accelerator.is_main_process:
        num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        found = {"gradient_bytes": num_bytes, "times": times}
        write_atomic(task["out"], json.dumps(found))
    launch.leave_job(accelerator)


def _stepper(accelerator: Accelerator, model: nn.Module) -> Stepper:
    """As the default configuration makes it."""
    values = {"run_dir": "none", "data": {"audio": ["none"], "valid": "none"}}
    config = parse(TrainConfig, values, where="bench_buckets")
    optimizer = build_optimizer(model, config.optim)
    return make_step(config, accelerator, model, optimizer)


def in_own_network(mbit: float) -> list[str]:
    """Words before a command that give it a loopback of ``mbit`` Mbit/s.

    Needs root, or a system whose users may make namespaces; and iproute2.
    """
    # a burst of 4 ms, and at least 2 packets of 64 KiB, by tc's own arithmetic
    burst = max(131072, round(mbit * 1e6 / 8 * 0.004))
    limit = f"tbf rate {mbit:g}mbit burst {burst} latency 200ms"
    script = "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && "
    script += f'tc qdisc add dev lo root {limit} && exec "$@"'
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "-r", "--net"]
    return [*own, "sh", "-c", script, "sh"]


def run_pair(task: Mapping[str, Any], mbit: float | None) -> dict[str, Any]:
    """What two processes found, over a loopback of ``mbit``; None: as fast as it is.

    Raises JobError if one fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "times.json")
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        words += ["--nproc-per-node", "2", "-m", "tools.bench.buckets"]
        words += ["--process", json.dumps({**task, "out": str(out)})]
        prefix = [] if mbit is None else in_own_network(mbit)
        variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment = {**os.environ, **variables, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([*prefix, *words], env=environment, check=False)
        if done.returncode:
            raise JobError(f"{task['model']}: a process failed, see above")
        found: dict[str, Any] = json.loads(out.read_text())
    return {**task, "mbit": mbit, **found}


def rows_of(found: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the table: medians over rounds, with least and most."""
    times: Times = found["times"]
    rounds = {way: [median(steps) for steps in turns] for way, turns in times.items()}
    network = "not limited" if found["mbit"] is None else f"{found['mbit']:g} Mbit/s"
    passes = f"{found['seconds']:g} s" if found["seconds"] else "computed"
    name = f"{found['model']}, {found['gradient_bytes'] / 1e6:.1f} MB"
    rows = []
    for way, seconds in rounds.items():
        pairs = list(zip(seconds, rounds[APART], rounds[FLAT], strict=True))
        seen = _spread([1000 * (own - apart) for own, apart, _ in pairs], 0)
        share = _spread([own / flat for own, _, flat in pairs], 2)
        step = _spread([1000 * own for own in seconds], 0)
        rest = ["", ""] if way == APART else [seen, "" if way == FLAT else share]
        rows.append([name, passes, network, way, step, *rest])
    return rows


def _spread(values: Sequence[float], digits: int) -> str:
    numbers = (median(values), min(values), max(values))
    middle, least, most = (f"{number:.{digits}f}" for number in numbers)
    return f"{middle} ({least} to {most})"


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """All in Markdown."""
    head = ["model, gradient", "passes", "loopback", "way", "step, ms"]
    head += ["communication seen, ms", "step over that of one all-reduce"]
    rows = [row for each in found for row in rows_of(each)]
    lines = ["".join(f"| {c} " if c else "| " for c in r) + "|" for r in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.buckets",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m tools.bench.buckets --model ast --mbit 1000",
    )
    add = parser.add_argument
    add("--model", nargs="+", default=["mobilenetv2", "ast"], help="families")
    add("--settings", default="{}", help="values of the models' configs, JSON")
    add("--seconds", nargs="+", type=float, help="play each model's passes so long")
    add("--mbit", nargs="*", type=float, default=[], help="rates, after no limit")
    add("--bucket-mb", nargs="+", type=float, default=[5.0, 25.0], help="sizes, MB")
    add("--chunks", type=int, default=2, help="of 2 s, per process and step")
    add("--steps", type=int, default=3, help="of each way in a round")
    add("--rounds", type=int, default=5, help="of all ways in turn")
    add("--out", help="JSON with every time, s")
    add("--process", help=argparse.SUPPRESS)  # what one process is to do
    args = parser.parse_args(argv)
    if args.seconds is not None and len(args.seconds) != len(args.model):
        parser.error(
            f"--seconds has {len(args.seconds)} numbers for {len(args.model)} models"
        )
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.bench.buckets``."""
    args = _arguments(argv)
    if args.process is not None:
        measure_process(json.loads(args.process))
        return
    found = []
    for name, seconds in zip(
        args.model, args.seconds or [None] * len(args.model), strict=True
    ):
        task = {
            "model": name,
            "seconds": seconds,
            "settings": json.loads(args.settings),
            **{k: getattr(args, k) for k in ("bucket_mb", "chunks", "steps", "rounds")},
        }
        found += [run_pair(task, mbit) for mbit in (None, *args.mbit)]
        if args.out:
            write_atomic(args.out, json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    run_main(main)
