"""Time and memory of metrics and bootstrap, and how often its intervals hold.

    OMP_NUM_THREADS=1 python -m tools.bench.metrics
    OMP_NUM_THREADS=1 python -m tools.bench.metrics --memory 20000 200000 --folder DISK

Owns the made-up scores and the table. The true value of an interval is the mean of what
all the made-up sets give.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from psl.evaluation.bootstrap import interval, resample
from psl.evaluation.labels import Labels
from psl.evaluation.metrics import average_precision, evaluate_scores
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.score_tables import ArrayScores
from shards.system.exits import run_main
from tools.bench.memory import peak_bytes

LABELS_OF_A_CLIP = 2.7
"""As many as AudioSet's evaluation clips have; class k has a share like 1 / (k + 1)."""


def made_up(
    num_clips: int, shares: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores [num_clips, C]; class c is in about ``shares[c]`` of clips."""
    rng = np.random.default_rng(seed)
    targets = rng.random((num_clips, len(shares))) < shares
    noise = rng.normal(size=targets.shape)
    return targets, (1 / (1 + np.exp(3 - 1.5 * targets - noise))).astype(np.float32)


def like_audioset(num_classes: int) -> np.ndarray:
    """Shares [C] of classes."""
    shares = 1 / np.arange(1, num_classes + 1)
    return np.clip(shares * LABELS_OF_A_CLIP / shares.sum(), 0.002, 0.4)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this process that ``work`` takes, s."""
    start = time.process_time()
    work()
    return time.process_time() - start


def fill(file: ScoreFile, labels: Labels, *, seed: int) -> None:
    """Write made-up scores, 1000 clips at a time."""
    rng = np.random.default_rng(seed)
    num_clips, num_classes = labels.shape
    for start in range(0, num_clips, 1000):
        stop = min(start + 1000, num_clips)
        noise = rng.normal(size=(stop - start, num_classes))
        logits = 1.5 * labels.targets(start, stop) + noise - 3
        file.write(np.arange(start, stop), 1 / (1 + np.exp(-logits)))
    file.seal()


def made_up_labels(num_clips: int, num_classes: int) -> Labels:
    """About as many as AudioSet's clips have, in memory that grows with them alone."""
    rng = np.random.default_rng(0)
    shares = like_audioset(num_classes)
    clip = rng.integers(num_clips, size=round(num_clips * shares.sum()))
    label = rng.choice(num_classes, size=len(clip), p=shares / shares.sum())
    return Labels.of_pairs(clip, label, num_clips=num_clips, num_classes=num_classes)


def on_disk(
    num_clips: int, num_classes: int, num_resamples: int, folder: str
) -> tuple[float, float, int]:
    """Seconds of metrics and bootstrap of scores on disk, and peak memory, bytes.

    The peak is that of the whole process; run it in one of its own.
    """
    torch.set_num_threads(1)
    labels = made_up_labels(num_clips, num_classes)
    with ScoreFile(folder, num_clips=num_clips, num_classes=num_classes) as file:
        fill(file, labels, seed=0)
        of_metrics = seconds(lambda: evaluate_scores(labels, file))
        of_bootstrap = seconds(
            lambda: resample(labels, file, num_resamples=num_resamples, seed=0)
        )
    return of_metrics, of_bootstrap, peak_bytes()


def print_memory(args: argparse.Namespace) -> None:
    """A row for each number of clips."""
    print(
        f"| Clips, {args.classes} classes | Scores on disk, GB | Peak of the process, "
        f"MB | Metrics, s of a core | {args.resamples} resamples, s of a core |"
    )
    print("|---" * 5 + "|")
    for num_clips in args.memory:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            given = (num_clips, args.classes, args.resamples, args.folder)
            of_metrics, of_bootstrap, peak = pool.apply(on_disk, given)
        size = 4 * num_clips * args.classes / 1e9
        print(
            f"| {num_clips:,} | {size:.2f} | {peak / 1e6:.0f} | {of_metrics:.1f} "
            f"| {of_bootstrap:.1f} |",
            flush=True,
        )


def share_inside(num_clips: int, num_classes: int, num_sets: int) -> float:
    """How many of the intervals of mAP of sets of clips hold the mean of all sets."""
    shares = np.geomspace(0.02, 0.2, num_classes)
    values, spans = [], []
    for seed in range(num_sets):
        targets, scores = made_up(num_clips, shares, seed=seed)
        values.append(evaluate_scores(targets, scores).mean_ap)
        found = resample(targets, scores, num_resamples=200, seed=0)
        spans.append(interval(values[-1], found.scalars()["mAP"]) or (1.0, 0.0))
    mean = float(np.mean(values))
    return float(np.mean([low <= mean <= high for low, high in spans]))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=527)
    parser.add_argument("--sets", type=int, default=300, help="sets for the intervals")
    add = parser.add_argument
    add("--memory", type=int, nargs="+", metavar="CLIPS", help="measure memory instead")
    add("--resamples", type=int, default=10, help="with --memory (10)")
    add("--folder", default=tempfile.gettempdir(), help="with --memory: of the scores")
    args = parser.parse_args(argv)
    if args.memory:
        print_memory(args)
        return
    torch.set_num_threads(1)
    targets, scores = made_up(args.clips, like_audioset(args.classes), seed=0)
    labels, table = Labels.of(targets), ArrayScores(scores)
    works: dict[str, Callable[[], object]] = {
        "mAP": lambda: [
            average_precision(labels.has(c), column)
            for c, column in enumerate(table.columns())
        ],
        "all metrics": lambda: evaluate_scores(targets, scores),
        "1000 resamples": lambda: resample(targets, scores, num_resamples=1000, seed=0),
    }
    for name, work in works.items():
        print(f"{name}: {seconds(work):.1f} s of a core, {args.clips} clips")
    for num_clips in (200, 1000):
        inside = share_inside(num_clips, 20, args.sets)
        print(f"{num_clips} clips: {100 * inside:.0f} % of {args.sets} intervals hold")


if __name__ == "__main__":
    run_main(main)
