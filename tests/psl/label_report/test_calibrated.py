"""The label report's calibration before and after, checked by scikit-learn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from psl import calibrate, label_report
from psl.labelling.store import write_labels
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import Index, open_index
from tests.conftest import MIDS

EVENTS = [("clip0_0", 0, 0.5, 0), ("clip0_0", 0.5, 1, 1), ("clip3_0", 0, 2, 2)]
"""Key, start and end, s, and class: all that is in the clips that the CSV names."""


@pytest.fixture(scope="module")
def audio(dataset: Path) -> Index:
    """The 24 clips of 2 s; clip i has weak labels i % 3 and i % 2."""
    return open_index(dataset, kind="audio")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, audio: Index
) -> Path:
    """Labels of a shy teacher, the same calibrated, and events; not to be changed."""
    folder = tmp_path_factory.mktemp("calibrated")
    rng = np.random.default_rng(0)
    probs = {}
    for row in range(24):
        weak = audio.table.weak_targets(np.array([row]), 3)[0]
        logits = rng.normal(3 * weak - 5, 1, (4, 3))
        probs[audio.key(row)] = 1 / (1 + np.exp(-logits))
    write_labels(folder / "raw", dataset, probs, chunk_seconds=0.5)
    named = [f"labels={folder}/raw", f"audio={dataset}", f"out={folder}/platt"]
    calibrate.main(named)
    steps = [named[0], named[1], f"out={folder}/isotonic", "method=isotonic"]
    calibrate.main(steps)
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel"]
    lines += [f"{key}\t{a}\t{b}\t{MIDS[c]}" for key, a, b, c in EVENTS]
    (folder / "strong.csv").write_text("\n".join(lines) + "\n")
    return folder


def report_of(labels: Path, out: Path, *words: str) -> dict[str, Any]:
    label_report.main([str(labels), "--out", str(out), "--no-pictures", *words])
    return json.loads((out / "report.json").read_text())


def of_sklearn(audio: Index, labels: Path) -> list[dict[str, float]]:
    """The scores of each class."""
    reader = MemberReader(open_index(labels, kind="labels"))
    probs = [reader.labels(row).astype(np.float64) for row in range(24)]
    weak = audio.table.weak_targets(np.arange(24), 3)
    covered = [row for row in range(24) if audio.key(row) in ("clip0_0", "clip3_0")]
    truth = np.zeros((2, 4, 3))
    for key, a, b, c in EVENTS:
        place = [audio.key(row) for row in covered].index(key)
        truth[place, int(2 * a) : int(2 * b), c] = 1
    found = []
    for c in range(3):
        of_clips = np.array([p[:, c].max() for p in probs])
        of_chunks = np.concatenate([probs[row][:, c] for row in covered])
        true = truth[:, :, c].ravel()
        found.append(
            {
                "weak_bce": log_loss(weak[:, c], of_clips, labels=[0, 1]),
                "weak_brier": brier_score_loss(weak[:, c], of_clips),
                "true_bce": log_loss(true, of_chunks, labels=[0, 1]),
                "true_brier": brier_score_loss(true, of_chunks),
            }
        )
    return found


def test_scores_before_and_after_are_those_of_scikit_learn(
    folder: Path, audio: Index, tmp_path: Path
) -> None:
    """A calibration that harms would look as if it helped."""
    strong = ["--strong", str(folder / "strong.csv")]
    report = report_of(folder / "platt", tmp_path, *strong)["calibrated"]
    assert (report["method"], report["before"]) == ("platt", str(folder / "raw"))
    rows = report["per_class"]
    for when, name in (("before", "raw"), ("after", "platt")):
        expected = of_sklearn(audio, folder / name)
        for row, scores in zip(rows, expected, strict=True):
            assert row[when] == pytest.approx(scores, rel=1e-3)
        for score in expected[0]:
            mean = np.mean([scores[score] for scores in expected])
            assert report["mean"][when][score] == pytest.approx(mean, rel=1e-3)
    assert report["mean"]["after"]["weak_bce"] < report["mean"]["before"]["weak_bce"]
    lines = json.loads((folder / "platt/calibration.json").read_text())["classes"]
    assert [row["b"] for row in rows] == [line["b"] for line in lines]
    text = (tmp_path / "report.md").read_text()
    first, mean = rows[0], report["mean"]
    assert "| class | a | b | weak BCE | weak Brier | true BCE | true Brier |" in text
    assert f"| Tone low | {first['a']:.2f} | {first['b']:.2f} | " in text
    weak = (mean[when]["weak_bce"] for when in ("before", "after"))
    assert "| mean of classes | - | - | {:.3f} \u2192 {:.3f} |".format(*weak) in text


def test_labels_before_are_found_or_named_and_must_be_of_the_same_clips(
    folder: Path, tmp_path: Path, dataset: Path
) -> None:
    """Scores before would be those of other labels, or missing without a word."""
    plain = report_of(folder / "raw", tmp_path / "raw")
    assert plain["calibrated"] is None
    assert "## Calibrated" not in (tmp_path / "raw/report.md").read_text()
    moved = tmp_path / "moved"
    shutil.copytree(folder / "isotonic", moved)
    made = json.loads((moved / "made.json").read_text())
    for origin in (str(tmp_path / "gone"), str(folder / "platt"), str(dataset)):
        made["calibrated_from"] = origin  # not there; other labels; no labels
        (moved / "made.json").write_text(json.dumps(made))
        alone = report_of(moved, tmp_path / "alone")["calibrated"]
        assert alone["before"] is None and set(alone["mean"]) == {"after"}
    assert "| Tone low | steps | - | " in (tmp_path / "alone/report.md").read_text()
    words = ["--before", str(folder / "raw")]
    named = report_of(moved, tmp_path / "named", *words)["calibrated"]
    assert named["before"] == str(folder / "raw")
    assert named["mean"]["after"] == alone["mean"]["after"]
    probs = {
        key.decode(): np.full((2, 3), 0.5)
        for key in open_index(dataset, kind="audio").table.key.tolist()
    }
    write_labels(tmp_path / "other", dataset, probs, chunk_seconds=1.0)
    with pytest.raises(ShardError, match="--before .*other: not the clips, chunks and"):
        report_of(moved, tmp_path / "x", "--before", str(tmp_path / "other"))
    (moved / "calibration.json").unlink()
    bare = report_of(moved, tmp_path / "bare")["calibrated"]["per_class"][0]
    assert "a" not in bare and bare["after"] == alone["per_class"][0]["after"]
    shutil.copy(folder / "platt/calibration.json", moved)
    with pytest.raises(
        ShardError, match="calibration.json: not what .* was calibrated"
    ):
        report_of(moved, tmp_path / "x")
    assert not (tmp_path / "x").exists()
