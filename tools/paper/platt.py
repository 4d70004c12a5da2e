r"""Calibrates a teacher's labels on incomplete weak labels, without any truth.

    python -m tools.paper.platt --fit raw/train_2s --labels raw/train_2s --out train_2s

For each class the probability p of a chunk becomes sigmoid(a logit(p) + b). a and b are
fitted to the weak labels of clips, each with the largest logit of its chunks (Platt
scaling). Owns the fit and the copy; psl/labelling/store.py writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psl.label_report.command import audio_of
from psl.labelling.store import write_labels
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import INDEX_NAME, Index, open_index
from shards.system.exits import run_main

Floats = NDArray[np.float64]
SMALLEST = 2.0**-14
"""Probabilities are kept this far from 0 and 1: float16's smallest normal number."""
RIDGE, NUM_STEPS = 1e-5, 100


def logits(probs: Floats) -> Floats:
    """Of probabilities, those of 0 and 1 as SMALLEST says."""
    clipped = np.clip(probs, SMALLEST, 1 - SMALLEST)
    return np.log(clipped / (1 - clipped))


def sigmoid(values: Floats) -> Floats:
    """The inverse of ``logits``."""
    return 1 / (1 + np.exp(-values))


def fit(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset that maximise the likelihood of ``labels`` [N] at logits [N].

    By Newton's method with backtracking; a slight pull of the slope towards 1 keeps it
    finite where the teacher makes no error.
    """
    features = np.stack([scores, np.ones_like(scores)], axis=1)
    pull, centre = np.diag([RIDGE, RIDGE]), np.array([1.0, 0.0])

    def loss(weights: Floats) -> float:
        values = features @ weights
        away = weights - centre
        bits = np.logaddexp(0.0, values) - labels * values
        return float(bits.mean() + away @ pull @ away / 2)

    weights = centre
    for _ in range(NUM_STEPS):
        probs = sigmoid(features @ weights)
        gradient = features.T @ (probs - labels) / len(labels)
        gradient += pull @ (weights - centre)
        curvature = (features * (probs * (1 - probs))[:, None]).T @ features
        step = np.linalg.solve(curvature / len(labels) + pull, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def fit_labels(labels: Index, audio: Index) -> tuple[Floats, Floats]:
    """Slopes and offsets [C] of a label dataset; ``audio`` has the weak labels.

    Raises ShardError for a class that no clip has, or all have, and for one whose
    probabilities fall where the weak labels rise.
    """
    reader, num_classes = MemberReader(labels), len(audio.classes)
    rows = np.flatnonzero(labels.table.count)
    largest = [
        logits(reader.labels(row).astype(np.float64)).max(axis=0)
        for row in rows.tolist()
    ]
    scores = np.array(largest)
    weak = audio.table.weak_targets(rows, num_classes) > 0
    found = []
    for c, name in enumerate(audio.classes.names):
        if weak[:, c].all() or not weak[:, c].any():
            raise ShardError(
                f"{labels.where}: class {name!r}: {int(weak[:, c].sum())} of "
                f"{len(rows)} clips have it; expected some, not all, to calibrate"
            )
        slope, offset = fit(scores[:, c], weak[:, c])
        if slope <= 0:
            raise ShardError(
                f"{labels.where}: class {name!r}: the teacher gives clips with this "
                f"label less than others (slope {slope:.3g}); use another teacher"
            )
        found.append((slope, offset))
    slopes, offsets = np.array(found).T
    return slopes, offsets


class _Calibrated(Mapping[str, np.ndarray]):
    """The labels of each clip by key, read when they are asked for."""

    def __init__(self, labels: Index, slopes: Floats, offsets: Floats) -> None:
        self._reader, self._slopes, self._offsets = (
            MemberReader(labels),
            slopes,
            offsets,
        )
        self._rows = {labels.key(row): row for row in range(len(labels))}

    def __getitem__(self, key: str) -> np.ndarray:
        values = logits(self._reader.labels(self._rows[key]).astype(np.float64))
        return sigmoid(self._slopes * values + self._offsets)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def calibrate(fit_on: Path, source: Path, out: Path) -> None:
    """Write ``out``: labels ``source`` with the calibration of labels ``fit_on``."""
    fitted, labels = (open_index(path, kind="labels") for path in (fit_on, source))
    slopes, offsets = fit_labels(
        fitted, open_index(audio_of(str(fit_on)), kind="audio")
    )
    rate = labels.properties["sample_rate"]
    write_labels(
        out,
        audio_of(str(source)),
        _Calibrated(labels, slopes, offsets),
        chunk_seconds=labels.properties["chunk_samples"] / rate,
        hop_seconds=labels.properties["hop_samples"] / rate,
        made_by={
            "calibration": "Platt, on weak labels of clips",
            "slopes": [round(slope, 6) for slope in slopes.tolist()],
            "offsets": [round(offset, 6) for offset in offsets.tolist()],
            "labels_fingerprint": labels.fingerprint,
        },
    )
    for name, slope, offset in zip(labels.classes.names, slopes, offsets, strict=True):
        print(f"{name}: sigmoid({slope:.2f} logit {offset:+.2f})")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.paper.platt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--fit", type=Path, required=True, metavar="DIR", help="labels to fit on")
    add("--labels", type=Path, required=True, metavar="DIR", help="labels to calibrate")
    add("--out", type=Path, required=True, metavar="DIR", help="label dataset to make")
    args = parser.parse_args(argv)
    if (args.out / INDEX_NAME).exists():
        raise ShardError(f"{args.out}: already made; remove it to make it again")
    calibrate(args.fit, args.labels, args.out)


if __name__ == "__main__":
    run_main(main)
