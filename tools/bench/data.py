"""How fast 2-s chunks come off the disk: other libraries, upstream's HDF5, and ours.

With --peers, the libraries that people would pick, each in processes of its own
(tools/bench/peers). Else times every way in tools/bench/contenders.py on the same clips
in one run, in rounds that take turns, so that what else the machine does meets all of
them; ratios are taken within a round, and medians over the rounds. Everything is in the
page cache. Prints Markdown.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from shards.audio.members import CODECS
from shards.system.exits import run_main
from shards.system.files import write_atomic
from tools.bench.contenders import (
    BATCH_SIZE,
    CHUNK_SECONDS,
    CLIP_SECONDS,
    Audio,
    Contender,
    contenders,
    make_audio,
)
from tools.bench.peers import table as peers
from tools.bench.peers.compare import Result, as_json, compare
from tools.bench.peers.task import PEERS

MAX_TRIED = 10
"""Batches before and after a resume, with --peers."""
LIMIT, BASELINE = "plain read", "HDF5"
CLIPS_PER_BATCH = BATCH_SIZE * CHUNK_SECONDS / CLIP_SECONDS
PACKAGES = ("numpy", "torch", "h5py", "webdataset", "soundfile")


@dataclass(frozen=True)
class Speed:
    """Of one way in one round, clips of 10 s per second."""

    cpu: float
    """Per second of processor time, the process and its children together."""
    wall: float


Rounds = dict[str, list[Speed]]
"""Speeds by name, one a round."""


def cpu_seconds() -> float:
    """Processor time of this process and its ended children so far."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def speed(contender: Contender, num_batches: int) -> Speed:
    """Read ``num_batches`` and forget them."""
    gc.collect()
    cpu, wall = cpu_seconds(), time.perf_counter()
    for batch in contender.read(num_batches):
        del batch
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    clips = num_batches * CLIPS_PER_BATCH
    return Speed(clips / cpu, clips / wall)


def batches_for(contender: Contender, seconds: float, epoch_batches: int) -> int:
    """Batches that take about ``seconds``, found by trial; also warms up.

    The trials grow until what it takes to begin no longer counts for much; each is
    made twice, as the first may wait for the disk.
    """
    unit = epoch_batches if contender.whole_epochs else 1
    batches = unit
    while True:
        clips_per_second = max(speed(contender, batches).wall for _ in range(2))
        share = batches * CLIPS_PER_BATCH / clips_per_second / seconds
        if share > 0.5:
            return unit * max(1, round(batches / share / unit))
        batches *= 2


def run_rounds(
    ways: list[Contender], *, rounds: int, seconds: float, epoch_batches: int
) -> Rounds:
    """Speeds of all ways, taking turns."""
    sizes = [batches_for(way, seconds, epoch_batches) for way in ways]
    found: Rounds = {way.name: [] for way in ways}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for way, size in zip(ways, sizes, strict=True):
            found[way.name].append(speed(way, size))
    return found


def ratio(found: Rounds, name: str, other: str, clock: str) -> tuple[float, str]:
    """Median of the rounds' ratios of two speeds, and their range as text."""
    ratios = [
        getattr(mine, clock) / getattr(theirs, clock)
        for mine, theirs in zip(found[name], found[other], strict=True)
    ]
    return statistics.median(ratios), f"{min(ratios):.2f}-{max(ratios):.2f}"


def speed_table(found: Rounds) -> list[str]:
    """Lines of Markdown: speeds, and ratios to the baseline and the limit."""
    lines = [
        "| Way | clips/s, CPU | clips/s, wall | x HDF5, CPU | x HDF5, wall "
        "| of plain read, CPU (range) | of plain read, wall |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, speeds in found.items():
        cpu = statistics.median(one.cpu for one in speeds)
        wall = statistics.median(one.wall for one in speeds)
        baseline = [ratio(found, name, BASELINE, clock)[0] for clock in ("cpu", "wall")]
        limit, spread = ratio(found, name, LIMIT, "cpu")
        lines.append(
            f"| {name} | {cpu:.0f} | {wall:.0f} | {baseline[0]:.2f} | "
            f"{baseline[1]:.2f} | {limit:.3f} ({spread}) | "
            f"{ratio(found, name, LIMIT, 'wall')[0]:.3f} |"
        )
    return lines


def codec_table(audio: Audio, found: Rounds) -> list[str]:
    """Lines of Markdown: what each codec costs in bytes and time."""
    lines = [
        "| Codec | bytes a clip | of WAV | clips/s, CPU | clips/s, wall, 1 thread "
        "| 2 threads against 1, wall (range) |",
        "|---|---|---|---|---|---|",
    ]
    wav_bytes = audio.wav.table.size.mean()
    for codec, index in audio.codecs.items():
        name, num_bytes = f"ours, {codec}", index.table.size.mean()
        cpu = statistics.median(one.cpu for one in found[name])
        wall = statistics.median(one.wall for one in found[f"{name}, 1 thread"])
        lines.append(
            f"| {codec} | {num_bytes:.0f} | {num_bytes / wav_bytes:.3f} | {cpu:.0f} | "
            f"{wall:.0f} | {_thread_gain(found, name)} |"
        )
    lines.append(f"| (SHA-256) | | | | | {_thread_gain(found, 'SHA-256')} |")
    return lines


def _thread_gain(found: Rounds, name: str) -> str:
    gain, spread = ratio(found, f"{name}, 2 threads", f"{name}, 1 thread", "wall")
    return f"{gain:.2f} ({spread})"


def circumstances(load_before: float, more: Sequence[str] = ()) -> str:
    """Command, machine and versions, in a few lines."""
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    names = dict.fromkeys([*PACKAGES, *more])
    packages = ", ".join(f"{name} {_version(name)}" for name in names)
    return (
        f"`python {shlex.join(sys.orig_argv[1:])}`\n\n"
        f"{len(models)} x {models[0]}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {packages}. Load average "
        f"{load_before:.1f} before, {os.getloadavg()[0]:.1f} at the end."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def check_enough(num_chunks: int, *, num_batches: int) -> None:
    """ValueError if the chunks do not fill the batches: some would never end."""
    if num_chunks < num_batches * BATCH_SIZE:
        least = math.ceil(num_batches * CLIPS_PER_BATCH)
        raise ValueError(
            f"{num_chunks} chunks do not fill {num_batches} batches of {BATCH_SIZE}; "
            f"take {least} clips of {CLIP_SECONDS:g} s or more"
        )


def compare_peers(audio: Audio, args: argparse.Namespace, load_before: float) -> None:
    """Print the tables of the comparison with other libraries, and keep the rest."""

    def save(results: list[Result]) -> None:
        where = circumstances(load_before, [peer.package for peer in PEERS])
        found = {"circumstances": where, "results": as_json(results)}
        if args.out:
            write_atomic(args.out, json.dumps(found, indent=1))

    results = compare(
        audio.folder,
        batch=BATCH_SIZE,
        rounds=args.rounds,
        seconds=args.seconds,
        num_batches=min(MAX_TRIED, len(audio.chunk_bounds) // BATCH_SIZE // 2),
        save=save,
    )
    print(circumstances(load_before, [peer.package for peer in PEERS]))
    print("", *peers.speed_table(results), sep="\n")
    print("", *peers.trial_table(results), sep="\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.data",
        description="Time reading 2-s chunks: other libraries, HDF5, ours.",
        epilog="example: python -m tools.bench.data "
        "--source data/mini-quick/shards/full",
    )
    add = parser.add_argument
    add("--source", help="packed dataset to take clips of 10 s from (else synthetic)")
    add("--clips", type=int, default=1000, help="how many (default 1000)")
    add("--folder", default="runs/bench_data", help="where copies of them are made")
    add("--rounds", type=int, default=9, help="turns of each way (default 9)")
    add("--seconds", type=float, default=1.0, help="of a turn, about (default 1)")
    add("--peers", action="store_true", help="compare with other libraries instead")
    add("--out", help="with --peers: file for all that was found, JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of tools/bench/data.py."""
    args, load_before = _arguments(argv), os.getloadavg()[0]
    torch.set_num_threads(1)
    audio = make_audio(
        Path(args.folder),
        source=args.source,
        num_clips=args.clips,
        codecs=("wav",) if args.peers else CODECS,
    )
    check_enough(len(audio.chunk_bounds), num_batches=2 if args.peers else 1)
    if args.peers:
        compare_peers(audio, args, load_before)
        return
    found = run_rounds(
        contenders(audio),
        rounds=args.rounds,
        seconds=args.seconds,
        epoch_batches=len(audio.chunk_bounds) // BATCH_SIZE,
    )
    print(circumstances(load_before))
    print("", *speed_table(found), "", *codec_table(audio, found), sep="\n")


if __name__ == "__main__":
    run_main(main)
