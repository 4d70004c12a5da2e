"""Memory and time of segments whose scores are on disk, as psl.evaluate strong= has it.

    OMP_NUM_THREADS=1 python -m tools.bench.segments --clips 20000 200000 --folder DISK

Owns the made-up frames and truth, and the table. Reads no list of events, which takes
memory of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from psl.evaluation.labels import Labels
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.segment_scores import SegmentScores, segments_on_disk
from psl.evaluation.segments import Segments, measure_segments
from shards.format.chunking import Chunking
from shards.system.exits import run_main
from tools.bench.memory import peak_bytes
from tools.bench.metrics import made_up_labels, seconds

CLIP_SAMPLES, SEGMENT_SAMPLES, FRAME_SAMPLES = 160_000, 16_000, 10_240
"""At 16 kHz: clips of 10 s, segments of 1 s, frames of 0.64 s, as the paper's are."""
_SEGMENTS = CLIP_SAMPLES // SEGMENT_SAMPLES
_SOUNDING = 3
"""Segments in which a class of a clip sounds, one after the other."""
BATCH_SIZE = 32


def made_up_segments(num_clips: int, num_classes: int) -> Segments:
    """Segments of clips that have about as many classes as AudioSet's."""
    of_clips = made_up_labels(num_clips, num_classes)
    rng = np.random.default_rng(1)
    first = rng.integers(_SEGMENTS - _SOUNDING + 1, size=len(of_clips.clip))
    sounding = (_SEGMENTS * of_clips.clip + first)[:, None] + np.arange(_SOUNDING)
    truth = Labels.of_pairs(
        sounding.reshape(-1),
        np.repeat(of_clips.label, _SOUNDING),
        num_clips=_SEGMENTS * num_clips,
        num_classes=num_classes,
    )
    return Segments(
        seconds=1.0,
        chunking=Chunking(SEGMENT_SAMPLES, SEGMENT_SAMPLES),
        rows=np.arange(num_clips),
        num_samples=np.full(num_clips, CLIP_SAMPLES),
        first=_SEGMENTS * np.arange(num_clips + 1),
        truth=truth,
    )


def frames_of(num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last sample [T] of the frames of a clip."""
    starts = np.arange(0, num_samples, FRAME_SAMPLES)
    return starts, np.minimum(starts + FRAME_SAMPLES, num_samples)


def score(segments: Segments, scores: SegmentScores) -> ScoreFile:
    """Random frames of all clips, pooled, and on disk."""
    generator = torch.Generator().manual_seed(0)
    num_frames, num_classes = len(frames_of(CLIP_SAMPLES)[0]), segments.truth.shape[1]
    for start in range(0, len(segments.rows), BATCH_SIZE):
        rows = segments.rows[start : start + BATCH_SIZE]
        shape = len(rows), num_frames, num_classes
        scores.add(rows, torch.rand(shape, generator=generator))
    file = scores.sealed()
    assert file is not None, "this is rank 0"
    return file


def measured(num_clips: int, num_classes: int, folder: str) -> tuple[float, float, int]:
    """Seconds of scoring and of measuring, and peak memory, bytes.

    The peak is that of the whole process; run it in one of its own.
    """
    torch.set_num_threads(1)
    files: list[ScoreFile] = []
    segments = made_up_segments(num_clips, num_classes)
    with segments_on_disk(
        segments,
        range(num_classes),
        frames_of,
        Accelerator(cpu=True),
        folder=folder,
        batch_size=BATCH_SIZE,
    ) as scores:
        assert scores is not None
        of_scores = seconds(lambda: files.append(score(segments, scores)))
        of_metrics = seconds(lambda: measure_segments(segments, files[0]))
    return of_scores, of_metrics, peak_bytes()


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each number of clips."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clips", type=int, nargs="+", default=[20_000, 200_000])
    add("--classes", type=int, default=527)
    add("--folder", default=tempfile.gettempdir(), help="of the scores")
    args = parser.parse_args(argv)
    print(
        f"| Clips of 10 s, {args.classes} classes | Scores of segments on disk, GB "
        "| Peak of the process, MB | Pooling and writing, s of a core "
        "| Metrics, s of a core |"
    )
    print("|---" * 5 + "|")
    for num_clips in args.clips:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            given = (num_clips, args.classes, args.folder)
            of_scores, of_metrics, peak = pool.apply(measured, given)
        size = 4 * _SEGMENTS * num_clips * args.classes / 1e9
        print(
            f"| {num_clips:,} | {size:.2f} | {peak / 1e6:.0f} | {of_scores:.1f} "
            f"| {of_metrics:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    run_main(main)
