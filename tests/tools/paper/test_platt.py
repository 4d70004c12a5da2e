"""Calibration of a teacher on weak labels: the fit, and what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import psl
from shards.errors import ShardError
from shards.format.index import open_index
from tools.paper import platt


def test_the_fit_is_logistic_regression() -> None:
    """Labels that are off by a little in every class, and nobody would see it."""
    rng = np.random.default_rng(0)
    for scale, shift in ((1.0, 0.0), (3.0, -6.0), (8.0, 2.0)):
        scores = scale * rng.standard_normal(400) + shift
        labels = rng.random(400) < 1 / (1 + np.exp(-(0.7 * scores + 1.5)))
        model = LogisticRegression(C=1e6, tol=1e-10).fit(scores[:, None], labels)
        expected = (model.coef_[0, 0], model.intercept_[0])
        assert platt.fit(scores, labels) == pytest.approx(expected, rel=0.02, abs=0.02)


def test_a_teacher_without_errors_gets_a_finite_slope() -> None:
    """Infinity in the exponent, and every label 0 or 1."""
    scores = np.array([-4.0, -3.0, 3.0, 4.0])
    slope, offset = platt.fit(scores, scores > 0)
    assert 1 < slope < 1000 and abs(offset) < 1


def write_labels(folder: Path, audio: Path, *, is_upside_down: bool = False) -> None:
    """A shy teacher: 0.02 in a chunk of a clip with the class, 0.001 elsewhere."""
    index = open_index(audio, kind="audio")
    weak = index.table.weak_targets(np.arange(len(index)), len(index.classes)) > 0
    rng = np.random.default_rng(0)
    labels = {}
    for row in range(len(index)):
        chunks = 1 + (int(index.table.count[row]) - 1) // 8000
        quiet = 0.001 * rng.uniform(0.5, 20, (chunks, weak.shape[1]))
        loud = weak[row] != is_upside_down
        quiet[0, loud] = 0.02 * rng.uniform(0.5, 2, loud.sum())
        labels[index.key(row)] = quiet
    psl.write_labels(folder, audio, labels, chunk_seconds=0.5)


def test_calibrated_labels_say_how_often_the_teacher_is_right(
    dataset: Path, tmp_path: Path
) -> None:
    """A shy teacher's student learns that nothing sounds."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_labels(raw, dataset)
    platt.main(["--fit", str(raw), "--labels", str(raw), "--out", str(out)])
    before, after = (psl.read_labels(folder) for folder in (raw, out))
    index = open_index(dataset, kind="audio")
    weak = index.table.weak_targets(np.arange(len(index)), len(index.classes)) > 0
    largest = []
    for key in (index.key(row) for row in range(len(index))):
        one, two = np.asarray(before[key]), np.asarray(after[key])
        assert one.shape == two.shape and one.max() < 0.05
        order = np.argsort(one, axis=0)  # stays as it was
        assert (np.diff(np.take_along_axis(two, order, axis=0), axis=0) >= 0).all()
        largest.append(two.max(axis=0))
    found = np.array(largest)
    # a fit by maximum likelihood has the share of true clips as its mean
    assert found.mean(axis=0) == pytest.approx(weak.mean(axis=0), abs=0.02)
    with pytest.raises(ShardError, match="already made"):
        platt.main(["--fit", str(raw), "--labels", str(raw), "--out", str(out)])


def test_a_teacher_that_is_upside_down_is_refused(
    dataset: Path, tmp_path: Path
) -> None:
    """Its labels would teach the opposite."""
    raw = tmp_path / "raw"
    write_labels(raw, dataset, is_upside_down=True)
    with pytest.raises(ShardError, match="less than others .slope -"):
        platt.main(
            ["--fit", str(raw), "--labels", str(raw), "--out", str(tmp_path / "x")]
        )
    assert not (tmp_path / "x").exists()
