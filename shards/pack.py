"""AudioSet CSVs + a folder of audio files -> audio shards.

Owns the (seeded) order of clips and the report of what was packed, missing and
rejected. Which clip goes to which shard depends on the
CSV, the files present and the seed alone, so any number of workers writes the same
bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shards import __version__
from shards.audio import CODECS, encode, load_segment
from shards.classes import Classes, read_classes
from shards.cli import run_main
from shards.files import file_sha256, write_atomic
from shards.schema import ClipInfo, ShardError
from shards.segments import Segment, find_audio, read_segments
from shards.writer import DatasetBuilder, Part, Row

REPORT_NAME = "pack_report.csv"


@dataclass(frozen=True)
class PackSettings:
    """How segments become shards."""

    codec: str = "wav"
    sample_rate: int = 16000
    clips_per_shard: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("sample_rate", 1), ("clips_per_shard", 1), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} = {value}; expected {least} or more")


_Job = tuple[Segment, Path, bool]
"""A segment, its file, and whether other segments are in that file, too."""


def _rows(
    jobs: Sequence[_Job],
    settings: PackSettings,
    classes: Classes,
    rejected: list[list[str]],
) -> Iterator[Row]:
    """Rows of one shard; what cannot be used goes to ``rejected`` with its reason."""
    for segment, path, is_recording in jobs:
        try:
            samples = load_segment(
                path,
                start_seconds=segment.start_seconds,
                end_seconds=segment.end_seconds,
                sample_rate=settings.sample_rate,
                is_recording=is_recording,
            )
        except ShardError as error:
            rejected.append([segment.key, "rejected", str(error)])
            continue
        info = ClipInfo(
            clip_id=segment.clip_id,
            start_seconds=segment.start_seconds,
            num_samples=len(samples),
            sample_rate=settings.sample_rate,
            labels=tuple(classes.mids[i] for i in segment.labels),
        )
        yield Row(
            key=segment.key,
            suffix=settings.codec,
            data=encode(
                samples, codec=settings.codec, sample_rate=settings.sample_rate
            ),
            count=len(samples),
            labels=segment.labels,
            extra={"json": info.to_bytes()},
        )


def _pack_shard(
    builder: DatasetBuilder,
    settings: PackSettings,
    name: str,
    jobs: Sequence[_Job],
) -> int:
    """Write one shard unless it is done; the number of clips it was to hold.

    A shard made when other files were there holds other clips, and is not done.
    """
    part = builder.part(name)
    done = {row[0] for row in part.rows + part.notes} if part else set()
    if part is None or done != {segment.key for segment, _, _ in jobs}:
        rejected: list[list[str]] = []
        builder.add(name, _rows(jobs, settings, builder.classes, rejected), rejected)
    return len(jobs)


def pack(
    *,
    audio: str | Path,
    segments_csv: str | Path,
    class_labels: str | Path,
    out: str | Path,
    settings: PackSettings | None = None,
    workers: int = 1,
    max_missing: float = 0.0,
    max_rejected: float = 0.0,
) -> str:
    """Pack a dataset into the folder ``out`` and return a one-line summary.

    ``max_missing`` and ``max_rejected`` are the fractions of the segments that may
    have no file, or a file that cannot be used; past them ShardError is raised and no
    index appears (whole shards stay for the next run). ``pack_report.csv`` in
    ``out`` lists every such segment with its reason.
    """
    _check_limits(workers, max_missing, max_rejected)
    settings, out = settings or PackSettings(), Path(out)
    classes = read_classes(class_labels)
    segments = read_segments(segments_csv, classes)
    files = find_audio(audio, segments)
    report = [
        [segment.key, "missing", f"no audio file in {audio}"]
        for segment in segments
        if segment.key not in files
    ]
    builder = DatasetBuilder(
        folder=out,
        kind="audio",
        classes=classes,
        properties={"codec": settings.codec, "sample_rate": settings.sample_rate},
        provenance={
            "packed_by": f"shards {__version__}",
            "segments_sha256": file_sha256(segments_csv),
            "clips_per_shard": settings.clips_per_shard,
            "seed": settings.seed,
        },
    )
    if builder.finished():
        return f"{out}: already packed from these segments with these settings"
    if len(report) > max_missing * len(segments):
        _write_report(out, report)
        raise _too_many("have no audio file", report, len(segments), out)
    if not files:
        raise ShardError(f"{audio}: has the file of no segment; nothing to pack")
    builder.begin()
    uses = Counter(files.values())
    jobs = [
        (segment, path, uses[path] > 1)
        for segment in segments
        if (path := files.get(segment.key))
    ]
    parts = _pack_shards(builder, settings, _deal(jobs, settings), workers)
    rejected = [note for part in parts for note in part.notes]
    _write_report(out, report + rejected)
    if len(rejected) == len(jobs) or len(rejected) > max_rejected * len(segments):
        for part in parts:
            if part.notes:  # its files may be mended before the next run
                builder.forget(part.shard.name)
        raise _too_many("cannot be used", rejected, len(segments), out)
    builder.publish([part.shard.name for part in parts])
    return (
        f"{out}: packed {len(jobs) - len(rejected)} clips in {len(parts)} shards, "
        f"{len(report)} missing, {len(rejected)} rejected (listed in "
        f"{out / REPORT_NAME})"
    )


def _check_limits(workers: int, max_missing: float, max_rejected: float) -> None:
    for name, share in (("missing", max_missing), ("rejected", max_rejected)):
        if not 0 <= share <= 1:
            raise ValueError(f"max_{name} = {share}; expected a fraction, 0 to 1")
    if workers < 1:
        raise ValueError(f"workers = {workers}; expected 1 or more")


def _deal(jobs: list[_Job], settings: PackSettings) -> dict[str, list[_Job]]:
    """The shuffled clips of each shard, by shard name, in nearly equal numbers."""
    order = np.random.default_rng(settings.seed).permutation(len(jobs))
    hands = np.array_split(order, max(1, -(-len(jobs) // settings.clips_per_shard)))
    return {f"{n:06d}.tar": [jobs[i] for i in hand] for n, hand in enumerate(hands)}


def _pack_shards(
    builder: DatasetBuilder,
    settings: PackSettings,
    shards: dict[str, list[_Job]],
    workers: int,
) -> list[Part]:
    """Make the shards that are not done; the records of all."""
    total = sum(map(len, shards.values()))
    spawn = multiprocessing.get_context("spawn")
    with (
        tqdm(total=total, unit="clip", desc=f"pack {builder.folder.name}") as bar,
        ProcessPoolExecutor(workers, spawn, _end_with_parent) as pool,
    ):
        tasks = [
            pool.submit(_pack_shard, builder, settings, name, jobs)
            for name, jobs in shards.items()
        ]
        try:
            for task in as_completed(tasks):
                bar.update(task.result())
        except BrokenProcessPool:
            raise OSError(
                "a packing process died, perhaps for want of memory; run again with "
                "fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [part for name in shards if (part := builder.part(name))]


def _end_with_parent() -> None:
    """Make this worker end when its packer is killed; it would wait forever."""
    packer = multiprocessing.parent_process()
    assert packer is not None

    def wait() -> None:
        packer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_report(out: Path, lines: list[list[str]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["key", "status", "reason"])
    writer.writerows(lines)
    write_atomic(out / REPORT_NAME, buffer.getvalue())


def _too_many(what: str, lines: list[list[str]], total: int, out: Path) -> ShardError:
    """The error that sums up ``lines``, which are in the report."""
    key, status, reason = lines[0]
    return ShardError(
        f"{len(lines)} of {total} segments {what} (first: {key}: {reason}; all in "
        f"{out / REPORT_NAME}); mend them, or accept up to a fraction F of them "
        f"with --max-{status} F"
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m shards.pack",
        description="Pack AudioSet CSVs and a folder of audio files into shards.",
        epilog="example: python -m shards.pack --audio wavs --segments "
        "balanced_train_segments.csv --class-labels class_labels_indices.csv "
        "--out data/balanced --max-missing 0.2",
    )
    add, defaults = parser.add_argument, PackSettings()
    add("--audio", required=True, help="folder with the audio files, searched deeply")
    add("--segments", required=True, help="segments CSV in AudioSet's form")
    add("--class-labels", required=True, help="class_labels_indices.csv")
    add("--out", required=True, help="dataset folder to make")
    add("--codec", choices=sorted(CODECS), default=defaults.codec)
    add("--sample-rate", type=int, default=defaults.sample_rate, help="Hz")
    add("--clips-per-shard", type=int, default=defaults.clips_per_shard)
    add("--seed", type=int, default=defaults.seed, help="of the order of clips")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    for what in ("missing", "rejected"):
        add(
            f"--max-{what}",
            type=float,
            default=0.0,
            metavar="F",
            help=f"fraction of segments that may be {what} (default 0)",
        )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m shards.pack``."""
    args = _arguments(argv)
    settings = PackSettings(
        args.codec, args.sample_rate, args.clips_per_shard, args.seed
    )
    summary = pack(
        audio=args.audio,
        segments_csv=args.segments,
        class_labels=args.class_labels,
        out=args.out,
        settings=settings,
        workers=args.workers,
        max_missing=args.max_missing,
        max_rejected=args.max_rejected,
    )
    print(summary)


if __name__ == "__main__":
    run_main(main)
