"""How busy psl.label keeps its teacher: the job against the bare forward pass.

The bare pass runs over batches that are already in memory; the job claims, reads and
decodes shards, scores them and writes the labels. Both have the same model, threads
and batches, in one run, and take turns; the ratio is taken within a turn. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psl.data.batch import to_device, to_waveform
from psl.data.batch_memory import BatchMemory
from psl.data.config import LoaderConfig
from psl.data.labels import LabelLayout
from psl.data.views import Augmentation
from psl.distributed import runtime
from psl.job.stop import StopRequest
from psl.labelling.rows import PcmBatch, ShardChunks, read_batch
from psl.labelling.worker import Score, ShardQueue, ShardWorker, Work
from psl.models.families import build_model
from shards.audio.members import encode
from shards.dataset.prefetch import Prefetcher
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.chunking import Chunking
from shards.format.classes import Classes
from shards.format.index import Index, open_index
from shards.format.label_codec import LabelForm
from shards.system.claims import Claims
from shards.system.exits import run_main

RATE, CLIP_SECONDS, NUM_CLASSES = 16000, 10, 527


@dataclass(frozen=True)
class Turn:
    """Chunks per second of one turn of each."""

    bare: float
    job: float
    busy: float
    """Share of the job's time in which its teacher scores; on a GPU, is given work."""

    @property
    def ratio(self) -> float:
        """How much of the bare speed the job has."""
        return self.job / self.bare


def make_audio(folder: Path, *, codec: str, num_shards: int, num_clips: int) -> Index:
    """``num_shards`` shards of ``num_clips`` clips of noise with a moving level."""
    mids = tuple(f"/m/{number}" for number in range(NUM_CLASSES))
    builder = DatasetBuilder(
        folder, "audio", Classes(mids, mids), {"codec": codec, "sample_rate": RATE}, {}
    )
    if builder.begin():
        for shard in range(num_shards):
            keys = [f"clip-{shard}-{number}" for number in range(num_clips)]
            rows = [_clip(key, codec, seed) for seed, key in enumerate(keys)]
            builder.add(f"{shard:06d}.tar", rows)
        builder.publish([f"{shard:06d}.tar" for shard in range(num_shards)])
    return open_index(folder, kind="audio")


def _clip(key: str, codec: str, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    length = CLIP_SECONDS * RATE
    noise = np.convolve(rng.standard_normal(length), np.full(8, 0.3), "same")
    level = 0.02 * (1.1 + np.sin(np.arange(length) * rng.uniform(1, 9) / RATE))
    pcm = np.round(np.clip(level * noise, -1, 1) * 32767).astype(np.int16)
    data = encode(pcm, codec=codec, sample_rate=RATE)
    return Row(key=key, suffix=codec, data=data, count=length)


def in_memory(work: Work) -> list[PcmBatch]:
    """All batches of the job, as the reader makes them."""
    batches, memory, index = [], BatchMemory(), work.reader.index
    for shard in range(len(index.shards)):
        chunks = ShardChunks.of(index, shard, work.layout)
        for batch in chunks.batches(work.batch_size):
            batches.append(
                read_batch(work.reader, batch, work.layout, memory, forgive=False)
            )
    return batches


def bare_seconds(work: Work, batches: Sequence[PcmBatch]) -> float:
    """Seconds in which the teacher scores ``batches``."""
    start = time.perf_counter()
    for batch in batches:
        waveform = to_waveform(to_device(batch.pcm, work.device))
        work.score(waveform, to_device(batch.lengths, work.device), None)
    if work.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Timed:
    """A teacher and the seconds for which it was asked."""

    def __init__(self, score: Score) -> None:
        self._score, self.seconds = score, 0.0

    def __call__(self, waveform: Tensor, lengths: Tensor, prepared: Any) -> Tensor:
        """What ``score`` gives; its time is added to ``seconds``."""
        start = time.perf_counter()
        try:
            return self._score(waveform, lengths, prepared)
        finally:
            self.seconds += time.perf_counter() - start


def job_seconds(work: Work) -> float:
    """Seconds in which the job labels all shards, from the first claim to the last."""
    assert work.builder.begin()
    with (
        Claims(work.builder.parts_folder, lease_seconds=180) as claims,
        Prefetcher([work.reader], 0) as prefetcher,
    ):
        worker = ShardWorker(
            work,
            ShardQueue(work.names, work.builder, claims),
            claims,
            prefetcher=prefetcher,
            stop=StopRequest(work.builder.folder, watch_file=False),
            on_written=lambda number: None,
        )
        start = time.perf_counter()
        worker.run()
        return time.perf_counter() - start


def turns(
    index: Index, folder: Path, *, number: int, batch_size: int, width: float
) -> list[Turn]:
    """``number`` turns of both, after one that warms up."""
    device = runtime.local_device()
    torch.manual_seed(0)
    model = build_model(num_classes=len(index.classes), width=width).eval()
    model = runtime.move_model(model, device)

    def score(waveform: Tensor, lengths: Tensor, prepared: object) -> Tensor:
        with torch.inference_mode():
            clip_probs: Tensor = model(waveform, lengths)[0]
        return clip_probs

    found = []
    for turn in range(number + 1):
        timed = Timed(score)
        work = Work(
            reader=MemberReader(index),
            layout=LabelLayout(
                Chunking.from_seconds(2.0, index.properties["sample_rate"]),
                LabelForm(),
                Augmentation.from_properties({}),
            ),
            builder=DatasetBuilder(
                folder / f"turn{turn}", "labels", index.classes, {}, {}
            ),
            score=timed,
            device=device,
            batch_size=batch_size,
            loader=LoaderConfig(),
            blame=lambda: "fresh weights",
            max_unreadable=0,
        )
        batches = in_memory(work)
        chunks = sum(len(batch.lengths) for batch in batches)
        if turn % 2:  # each is first in half of the turns
            bare, timed.seconds = bare_seconds(work, batches), 0.0
        job = job_seconds(work)
        busy = timed.seconds / job
        if not turn % 2:
            bare = bare_seconds(work, batches)
        found.append(Turn(chunks / bare, chunks / job, busy))
        print(f"turn {turn} of {number}: {found[-1]}", file=sys.stderr)
    return found[1:]


def table(found: Sequence[Turn], what: str) -> str:
    """Two lines of Markdown without their heading: medians, and the ratio's range."""
    bare = statistics.median(turn.bare for turn in found)
    job = statistics.median(turn.job for turn in found)
    ratios = sorted(turn.ratio for turn in found)
    return (
        f"| {what} | {bare:.1f} | {job:.1f} | {statistics.median(ratios):.3f} "
        f"({ratios[0]:.3f}-{ratios[-1]:.3f}) "
        f"| {statistics.median(turn.busy for turn in found):.3f} |"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of tools/bench/label.py."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.label",
        description="Time psl.label against the bare forward pass of its teacher.",
        epilog="example: python -m tools.bench.label --codec wav flac --rounds 7",
    )
    add = parser.add_argument
    add("--audio", help="packed dataset to label (else synthetic clips of 10 s)")
    add("--codec", nargs="+", default=["wav", "flac"], help="of synthetic clips")
    add("--shards", type=int, default=3, help="of synthetic clips (default 3)")
    add("--clips", type=int, default=64, help="in each of them (default 64)")
    add("--rounds", type=int, default=7, help="turns of both (default 7)")
    add("--batch-size", type=int, default=64, help="chunks of 2 s (default 64)")
    add("--width", type=float, default=1.0, help="of the MobileNetV2 (default 1)")
    args, load_before = parser.parse_args(argv), os.getloadavg()[0]
    lines = [
        "| Audio | bare, chunks/s | job, chunks/s | job / bare (range) "
        "| teacher busy, share of the job |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        for codec in ["as found"] if args.audio else args.codec:
            folder = Path(name, codec)
            index = (
                open_index(args.audio, kind="audio")
                if args.audio
                else make_audio(
                    folder / "audio",
                    codec=codec,
                    num_shards=args.shards,
                    num_clips=args.clips,
                )
            )
            found = turns(
                index,
                folder,
                number=args.rounds,
                batch_size=args.batch_size,
                width=args.width,
            )
            lines.append(table(found, codec))
    print("\n".join(lines))
    print(
        f"\n`python {shlex.join(sys.orig_argv[1:])}`, {runtime.local_device()}, "
        f"{torch.get_num_threads()} torch threads, {len(os.sched_getaffinity(0))} "
        f"cores, load average {load_before:.1f} before and {os.getloadavg()[0]:.1f} "
        "at the end."
    )


if __name__ == "__main__":
    run_main(main)
