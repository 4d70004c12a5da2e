"""Rehearse a run on many processes without them: plan, memory, reads, first batches.

Owns its words and the table that it prints. psl/training/rehearsal.py plays the ranks;
it and torch are imported once the configuration is accepted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from psl.command_line import Command, from_command_line
from psl.config import Count, CountOrZero, config, parse
from psl.config_values import read_words
from psl.distributed.environment import pretend_node
from psl.training.config import TrainConfig
from shards.system.exits import run_main

if TYPE_CHECKING:
    from psl.training.rehearsal import Rehearsal

COMMAND = Command(
    "psl.dry_run",
    purpose="Rehearse psl.train on world=N processes, here and without them: what is "
    "refused, the plan, memory, what each rank reads, its first batches. Words of its "
    "own: world, per_node (8), ranks ([0]), batches (2), device (cuda); all others are "
    "those of psl.train. Nothing is written.",
    example="world=512 my.yaml 'ranks=[0,511]'",
    first=("data.audio", "global_batch_size", "accumulation_steps", "strategy"),
)


@config
class DryRunConfig:
    """What is to be rehearsed."""

    world: Annotated[int, Field(ge=1, le=1 << 16)]
    """Processes of the job, one for each GPU."""
    per_node: Count = 8
    """Processes of a machine, which share its cache."""
    ranks: list[CountOrZero] = Field(default_factory=lambda: [0])
    """Ranks whose first batches to show."""
    batches: CountOrZero = 2
    """How many of them."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What the processes compute on."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.dry_run``."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = {field.name for field in fields(DryRunConfig)}
    mine = [word for word in words if word.partition("=")[0] in own]
    others = [word for word in words if word not in mine]
    training = from_command_line(TrainConfig, others, COMMAND)
    values = read_words(mine, DryRunConfig)
    wanted = parse(DryRunConfig, values, where=COMMAND.module)
    from psl.training.rehearsal import rehearse  # loads torch

    with pretend_node(min(wanted.per_node, wanted.world)):
        found = rehearse(
            training,
            wanted.world,
            ranks=wanted.ranks,
            num_batches=wanted.batches,
            device=wanted.device,
        )
    print("\n".join(describe(found, wanted)))


def describe(found: Rehearsal, wanted: DryRunConfig) -> Iterator[str]:
    """The lines of a report."""
    config, parts = found.config, found.config.accumulation_steps
    yield f"{found.world_size} processes, {wanted.per_node} a node: nothing is refused"
    yield ""
    yield f"steps      {found.steps_per_epoch} an epoch, {found.total_steps} in all"
    if found.resumes_after:
        yield f"           {found.resumes_after} of them are done: the run resumes"
    yield (
        f"batch      {config.chunks_per_step} chunks of {config.data.chunk_seconds:g} "
        f"s: {found.chunks_per_rank} a process"
        + (f", in {parts} parts of {found.chunks_per_part}" if parts > 1 else "")
    )
    cost = found.cost
    yield (
        f"model      {cost.num_parameters / 1e6:.1f} M parameters, "
        f"{found.chunks_per_rank * cost.flops_per_chunk / 1e9:.4g} GFLOP a process "
        "and step"
    )
    yield ""
    yield f"memory of a process, estimated ({config.strategy})"
    for field in fields(found.memory):
        if number := getattr(found.memory, field.name):
            yield f"  {field.name:13}{_bytes(number):>10}"
    yield ""
    yield "reads of a process in the first epoch     min       mean        max"
    reads = found.reads
    for name, counts in {"chunks": reads.chunks, "audio shards": reads.shards}.items():
        low, mean, high = counts.min(), counts.mean(), counts.max()
        yield f"  {name:31}{low:10}{mean:11.1f}{high:11}"
    for name, counts in {
        "all of these, with labels": reads.shard_bytes,
        "audio read in them": reads.audio_bytes,
    }.items():
        yield f"  {name:31}" + " ".join(f"{_bytes(n):>10}" for n in _spread(counts))
    yield ""
    yield "start of the data side, on this machine"
    for name, seconds in found.seconds.items():
        yield f"  {name:27}{seconds:7.2f} s"
    for rank, batches in found.batches.items():
        for number, keys in enumerate(batches, start=1):
            yield f"rank {rank}, batch {number}: {', '.join(keys)}"


def _spread(numbers: np.ndarray) -> tuple[float, float, float]:
    return float(numbers.min()), float(numbers.mean()), float(numbers.max())


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"


if __name__ == "__main__":
    run_main(main)
