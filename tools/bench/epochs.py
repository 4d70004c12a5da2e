"""How fast an epoch of training's batches is: cold files, codecs, decoded copies.

Times psl.train's own data (order, threads, readahead, copies) without a model, each
epoch in a process of its own, which opens everything again, in rounds that take turns.
``cold`` drops the dataset's files from the page cache first; where the disk lies behind
a cache of its own (a virtual machine's), they may still come from there. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import process_time

import torch

from psl.data.config import LoaderConfig
from psl.data.examples import TrainingData
from psl.data.loader import fetch_ahead
from shards.system.exits import run_main
from tools.bench.contenders import CHUNK_SECONDS, SEED, make_audio

WAYS: dict[str, tuple[str, bool, dict[str, object]]] = {
    "wav, warm": ("wav", False, {}),
    "wav, warm, no readahead": ("wav", False, {"readahead_gb": 0.0}),
    "wav, cold": ("wav", True, {}),
    "wav, cold, no readahead": ("wav", True, {"readahead_gb": 0.0}),
    "flac": ("flac", False, {}),
    "flac, transcode": ("flac", False, {"transcode": "wav"}),
}
"""Codec, whether cold, and the keys of loader."""
EPOCHS = {"flac": 3, "flac, transcode": 3}
"""Epochs in the process, if more than one."""


def drop(folder: Path) -> None:
    """Let the kernel forget the files of a folder."""
    os.sync()  # what is not on the disk yet is not forgotten
    for path in folder.iterdir():
        with open(path, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def epochs(
    folder: Path, batch: int, loader: LoaderConfig, num: int
) -> list[dict[str, float]]:
    """Of each epoch seconds to the first batch and in all, CPU seconds, and chunks."""
    begin, cpu, found = time.perf_counter(), process_time(), []
    data = TrainingData.open(
        [str(folder)], None, chunk_seconds=CHUNK_SECONDS, alpha=1.0, loader=loader
    )
    plan, device = data.plan(batch, SEED), torch.device("cpu")
    for number in range(num):
        num_chunks, first = 0, 0.0
        steps = data.steps(plan, number, start=0, rank=0, world_size=1)
        for made in fetch_ahead(lambda step: data.batch(*step, device), steps, loader):
            first = first or time.perf_counter() - begin
            num_chunks += len(made.pcm)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        found.append(
            {
                "first": first,
                "seconds": time.perf_counter() - begin,
                "cpu": process_time() - cpu,
                "chunks": num_chunks,
                "blocks_read": usage.ru_inblock,
            }
        )
        begin, cpu = time.perf_counter(), process_time()
    return found


def turn(name: str, folder: Path, batch: int, threads: int) -> list[dict[str, float]]:
    """The epochs of one way, in a process of its own."""
    codec, cold, keys = WAYS[name]
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    if cold:
        drop(folder / codec)
    words = {"threads": threads, "cache": str(cache), **keys}
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.epochs", "--one", json.dumps(words)]
        + ["--folder", str(folder / codec), "--batch", str(batch)]
        + ["--epochs", str(EPOCHS.get(name, 1))],
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Lines of Markdown: medians over the rounds, ranges in brackets."""
    lines = [
        "| Epoch | First batch, ms | chunks/s, wall (range) | CPU, us a chunk "
        "| MB from disk |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in found.items():
        rates = [one["chunks"] / one["seconds"] for one in rounds]
        cpu = median(1e6 * one["cpu"] / one["chunks"] for one in rounds)
        lines.append(
            f"| {name} | {1e3 * median(one['first'] for one in rounds):.0f} | "
            f"{median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f}) | {cpu:.1f} | "
            f"{median(one['blocks_read'] for one in rounds) * 512 / 1e6:.0f} |"
        )
    return lines


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.epochs",
        description="Time epochs of psl.train's batches: cold, FLAC, decoded copies.",
        epilog="example: python -m tools.bench.epochs --clips 300 --rounds 3",
    )
    add = parser.add_argument
    add("--folder", type=Path, default=Path("runs/bench_epochs"), help="for the clips")
    add("--clips", type=int, default=300, help="synthetic clips of 10 s (default 300)")
    add("--rounds", type=int, default=3, help="turns of each way (default 3)")
    add("--batch", type=int, default=32, help="chunks of a batch (default 32)")
    add("--threads", type=int, default=2, help="loader.threads (default 2)")
    add("--only", nargs="*", choices=list(WAYS), help="these ways alone")
    add("--epochs", type=int, default=1, help=argparse.SUPPRESS)
    add("--one", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of tools/bench/epochs.py."""
    args = _arguments(argv)
    torch.set_num_threads(1)
    if args.one:
        loader = LoaderConfig(**json.loads(args.one))
        print(json.dumps(epochs(args.folder, args.batch, loader, args.epochs)))
        return
    make_audio(args.folder, source=None, num_clips=args.clips, codecs=("wav", "flac"))
    ways = args.only or list(WAYS)
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for name in ways:
            turns = turn(name, args.folder, args.batch, args.threads)
            for number, one in enumerate(turns, start=1):
                told = f"{name}, epoch {number}" if len(turns) > 1 else name
                found.setdefault(told, []).append(one)
    print(f"`python {shlex.join(sys.orig_argv[1:])}`, load {os.getloadavg()[0]:.1f}\n")
    print(*table(found), sep="\n")


if __name__ == "__main__":
    run_main(main)
