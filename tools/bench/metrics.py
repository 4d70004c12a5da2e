"""Time of the metrics and of the bootstrap, and how often its intervals hold.

    OMP_NUM_THREADS=1 python -m tools.bench.metrics

Owns the made-up scores and the table. The true value of an interval is the mean of what
all the made-up sets give.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from psl.evaluation.bootstrap import interval, resample
from psl.evaluation.metrics import average_precision, by_column, evaluate_scores
from shards.system.exits import run_main

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
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    targets, scores = made_up(args.clips, like_audioset(args.classes), seed=0)
    works: dict[str, Callable[[], object]] = {
        "mAP": lambda: [average_precision(*c) for c in by_column(targets, scores)],
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
