"""How well an epoch is shuffled: our plan, a full shuffle, webdataset's buffer.

    python -m tools.bench.shuffle_quality --out docs/shuffle.md

Owns the measures and the table. Trains nothing; the shards are tiny tars with a number
in each member, read by the real webdataset library, and an order is the list of input
positions as they come out.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from shards.order.balance import balanced_weights
from shards.order.plan import Plan
from shards.system.exits import run_main

CHUNKS = 5
"""Chunks of a clip: 10 s in pieces of 2 s."""
NUM_CLASSES = 50
"""Classes of the mixture; class k has a share in proportion to 1 / (k + 1)."""
LONG = 100
"""Batches that make a stretch, over which the mixture should be even as well."""


@dataclass(frozen=True)
class Setting:
    """A synthetic dataset and how it is read."""

    num_clips: int
    num_shards: int
    batch_size: int
    buffers: tuple[int, ...] = ()
    """Sizes of webdataset's buffer to compare with."""

    @property
    def num_chunks(self) -> int:
        """Chunks of all clips."""
        return self.num_clips * CHUNKS

    @property
    def title(self) -> str:
        """A line for the table's head."""
        return (
            f"{self.num_clips:,} clips of {CHUNKS} chunks in {self.num_shards} shards, "
            f"global batches of {self.batch_size}"
        )


SETTINGS = (
    Setting(20_000, 40, 32, (1000, 5000)),
    Setting(100_000, 200, 256, (1000, 5000)),
    Setting(2_084_000, 4168, 512),
    Setting(2_084_000, 4168, 32),
)


def full_shuffle(setting: Setting) -> np.ndarray:
    """Every order equally likely: the ideal, which needs random access to all tars."""
    return np.random.default_rng(0).permutation(setting.num_chunks)


def planned(setting: Setting) -> np.ndarray:
    """Our plan, first epoch of seed 0."""
    per_shard = setting.num_clips // setting.num_shards
    plan = Plan(
        np.full(setting.num_clips, CHUNKS),
        np.full(setting.num_shards, per_shard),
        setting.batch_size,
        seed=0,
    )
    return np.concatenate([rows * CHUNKS + chunk for rows, chunk in plan.steps(0)])


def write_tars(folder: Path, setting: Setting) -> list[str]:
    """Shards whose members hold the numbers of the clips; returns their names."""
    names = []
    for shard, rows in enumerate(
        np.split(np.arange(setting.num_clips), setting.num_shards)
    ):
        names.append(str(folder / f"{shard:06d}.tar"))
        with tarfile.open(names[-1], "w") as tar:
            for row in rows:
                member = tarfile.TarInfo(f"{row:08d}.txt")
                member.size = 8
                tar.addfile(member, io.BytesIO(b"%08d" % row))
    return names


def buffered(names: list[str], size: int) -> np.ndarray:
    """The order of webdataset with shuffled shards and a buffer of ``size`` chunks.

    The buffer is filled before the first comes out; one process, its best case.
    """

    def cut(samples: Iterator[dict[str, Any]]) -> Iterator[int]:
        for sample in samples:
            yield from range(
                int(sample["txt"]) * CHUNKS, int(sample["txt"]) * CHUNKS + 5
            )

    dataset = webdataset.WebDataset(names, shardshuffle=len(names), seed=0)
    return np.array(list(dataset.compose(cut).shuffle(size, initial=size, seed=0)))


def neighbours(order: np.ndarray, batch_size: int) -> tuple[float, float]:
    """Where neighbours of the input land: median distance, and share in one batch.

    Both relative to what a full shuffle of n gives on average: a median of
    n (1 - sqrt(1/2)), a share of (batch_size - 1) / (n - 1).
    """
    n = len(order)
    place = np.full(order.max() + 2, -1)
    place[order] = np.arange(n)
    both = (place[:-1] >= 0) & (place[1:] >= 0)
    one, two = place[:-1][both], place[1:][both]
    median = float(np.median(np.abs(one - two))) / (n * (1 - np.sqrt(0.5)))
    together = float(np.mean(one // batch_size == two // batch_size))
    return median, together * (n - 1) / (batch_size - 1)


def mixture(classes: np.ndarray, length: int) -> float:
    """Variance of each class's count in runs of ``length`` examples, mean over classes.

    Relative to drawing at random without replacement: 1 is a full shuffle, more is
    clumps, less is more even than chance.
    """
    n = len(classes) // length * length
    runs = classes[:n].reshape(-1, length)
    counts = np.zeros((len(runs), NUM_CLASSES))
    np.add.at(counts, (np.arange(len(runs))[:, None], runs), 1)
    share = counts.sum(axis=0) / n
    expected = length * share * (1 - share) * (n - length) / (n - 1)
    return float(np.mean(counts.var(axis=0) / expected))


def class_of_clips(setting: Setting, packed_shuffled: bool) -> np.ndarray:
    """[R] class of each clip, in the order of packing or sorted by class."""
    share = 1 / (np.arange(NUM_CLASSES) + 1)
    rng = np.random.default_rng(1)
    classes = rng.choice(NUM_CLASSES, setting.num_clips, p=share / share.sum())
    return classes if packed_shuffled else np.sort(classes)


def table(setting: Setting) -> str:
    """The rows of one setting."""
    lines = [
        f"{setting.title}:\n",
        "| Order | Neighbours: distance | in one batch | Packed shuffled: batch | "
        f"{LONG} batches | Packed by class: batch | {LONG} batches |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, order in orders(setting):
        lines.append(f"| {name} | {' | '.join(figures(order, setting))} |")
    return "\n".join(lines) + "\n"


def orders(setting: Setting) -> Iterator[tuple[str, np.ndarray]]:
    """Each order by name."""
    yield "full shuffle", full_shuffle(setting)
    yield "our plan", planned(setting)
    with tempfile.TemporaryDirectory() as folder:
        names = write_tars(Path(folder), setting) if setting.buffers else []
        for size in setting.buffers:
            yield f"webdataset, buffer {size}", buffered(names, size)


def figures(order: np.ndarray, setting: Setting) -> list[str]:
    """The columns of one order."""
    values = [*neighbours(order, setting.batch_size)]
    for packed_shuffled in (True, False):
        classes = class_of_clips(setting, packed_shuffled)[order // CHUNKS]
        values.append(mixture(classes, setting.batch_size))
        values.append(mixture(classes, setting.batch_size * LONG))
    return [f"{value:.3g}" for value in values]


def balance_table() -> str:
    """What balance does to an AudioSet-sized set of 527 classes, and what it costs."""
    num_clips, num_classes = 500_000, 527
    share = 1 / (np.arange(num_classes) + 2.0) ** 1.5
    rng = np.random.default_rng(2)
    label = rng.choice(num_classes, num_clips, p=share / share.sum())
    start, counts = np.arange(num_clips + 1), np.full(num_clips, CHUNKS)
    natural = np.bincount(label, minlength=num_classes)
    present = natural > 0
    lines = [
        f"{num_clips:,} clips, one of {num_classes} classes each, "
        f"{natural[present].min()} to {natural.max():,} clips a class:\n",
        "| balance | balance_limit | Most heard class / least | Most copies | "
        "Clips heard in an epoch |",
        "|---|---|---|---|---|",
    ]
    for temper, limit in ((0, 20), (0.5, 20), (1, 5), (1, 20), (1, 100), (1, 10_000)):
        weights = balanced_weights(counts, start, label, temper=temper, limit=limit)
        heard = np.bincount(label, weights, minlength=num_classes)[present]
        once = float(np.minimum(weights, 1).mean())
        lines.append(
            f"| {temper} | {limit} | {heard.max() / heard.min():.3g} | "
            f"{weights.max():.3g} | {100 * once:.0f} % |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line: prints a table for each setting, and that of balance."""
    argparse.ArgumentParser(
        prog="python -m tools.bench.shuffle_quality", description=__doc__
    ).parse_args()
    for setting in SETTINGS:
        print(table(setting), flush=True)
    print(balance_table())


if __name__ == "__main__":
    run_main(main)
