"""Runs tools/paper/report.py on a made-up demonstration and reads what it wrote."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from psl.evaluation.stored import StoredScores, write_scores
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.index import open_index
from shards.format.label_codec import encode_labels
from shards.system.exits import run_main
from tests.learning import REPOSITORY

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: mini)")

MEAN_AP = {
    "baseline": (0.20, 0.24),
    "psl_10s": (0.31, 0.31),
    "psl_5s": (0.40, 0.41),
    "psl_2s": (0.42, 0.45),
}
"""mAP of each student with seeds 2 and 10, which sort otherwise as text."""
SEEDS = (2, 10)
EVENTS = {
    "clip4_0": [(0.0, 0.5, "/m/low"), (0.5, 1.0, "/m/mid"), (1.0, 1.5, "/m/high")],
    "clip7_0": [(0.0, 0.5, "/m/low"), (0.5, 1.0, "/m/mid"), (1.0, 1.5, "/m/high")],
    "clip9_0": [(0.0, 0.5, "/m/low"), (0.0, 0.5, "/m/mid"), (1.0, 1.5, "/m/high")],
    "elsewhere_0": [(0.0, 0.5, "/m/low")],
}
PROBS = {
    "clip4_0": [[0, 0, 0.9], [0.9, 0, 0], [0, 0.9, 0], [0, 0, 0]],
    "clip7_0": [[0.9, 0, 0], [0, 0.9, 0], [0, 0.3, 0.9], [0, 0, 0]],
    "clip9_0": [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]],
}
"""Of 0.5-s chunks: wrong on clip 4, good on clip 7, perfect on the two sounds of 9."""


def write_run(folder: Path, mean_ap: float) -> None:
    """A run as psl.train and psl.evaluate leave it."""
    (folder / "eval").mkdir(parents=True)
    metrics = {"mAP": mean_ap, "AUC": 0.8125, "d_prime": 1.25}
    (folder / "eval" / "metrics.json").write_text(json.dumps(metrics))
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as stream:
        for epoch in range(3):
            for step in (10 * epoch + 5, 10 * epoch + 10):
                loss = {"step": step, "epoch": epoch, "loss": 0.5 / (epoch + 1)}
                stream.write(json.dumps(loss) + "\n")
            valid = {"step": step, "epoch": epoch, "valid_mAP": mean_ap}
            stream.write(json.dumps(valid) + "\n")


def write_labels(folder: Path, audio_folder: Path) -> None:
    """Labels as psl.label writes them; nearly silent where PROBS says nothing."""
    audio = open_index(audio_folder, kind="audio")
    builder = DatasetBuilder(
        folder=folder,
        kind="labels",
        classes=audio.classes,
        properties={"chunk_samples": 8000, "hop_samples": 8000, "sample_rate": 16000},
        provenance={"audio_fingerprint": audio.fingerprint},
    )
    assert builder.begin()
    silent = np.full((4, 3), 0.01)
    for number, shard in enumerate(audio.shards):
        in_shard = np.flatnonzero(audio.table.shard == number)
        keys = [audio.key(row) for row in in_shard.tolist()]
        rows = [
            Row(key, "npy", encode_labels(np.array(PROBS.get(key, silent))), 4)
            for key in keys
        ]
        builder.add(shard.name, rows)
    assert builder.publish([shard.name for shard in audio.shards])


def write_demonstration(folder: Path, dataset: Path) -> tuple[Path, Path]:
    """ROOT and DATA in ``folder``, their audio being ``dataset``."""
    root, data = folder / "root", folder / "data"
    (data / "shards").mkdir(parents=True)
    (data / "shards" / "eval").symlink_to(dataset)
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel"]
    for key, events in EVENTS.items():
        lines += [f"{key}\t{start}\t{end}\t{mid}" for start, end, mid in events]
    (data / "strong.csv").write_text("\n".join(lines) + "\n")
    write_run(root / "teacher", 0.508125)
    for student, values in MEAN_AP.items():
        for seed, mean_ap in zip(SEEDS, values, strict=True):
            write_run(root / f"seed{seed}" / student, mean_ap)
    write_labels(root / "labels_eval_2s", dataset)
    return root, data


@pytest.fixture(scope="module")
def report() -> ModuleType:
    """tools/paper/report.py as a module."""
    return importlib.import_module("tools.paper.report")


@pytest.fixture(scope="module")
def reported(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path
) -> tuple[Path, str]:
    """ROOT after the command, and what the command printed."""
    root, data = write_demonstration(tmp_path_factory.mktemp("report"), dataset)
    result = subprocess.run(
        [sys.executable, "-m", "tools.paper.report", str(root), "--data", str(data)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert result.returncode == 0, result.stderr
    return root, result.stdout


def test_the_table_holds_percentages_averaged_over_seeds(
    reported: tuple[Path, str],
) -> None:
    """Whoever quotes table.json would quote one seed, or a share for a percentage."""
    root, _ = reported
    assert json.loads((root / "table.json").read_text()) == {
        "teacher": 50.81,
        "baseline": 22.0,
        "psl_10s": 31.0,
        "psl_5s": 40.5,
        "psl_2s": 43.5,
    }


def test_the_seeds_keep_their_order_and_their_sample_deviation(
    reported: tuple[Path, str],
) -> None:
    """Whoever judges noise from it would be told too little (ddof 0), or mix seeds."""
    root, _ = reported
    seeds = json.loads((root / "table_seeds.json").read_text())["systems"]
    assert seeds["baseline"]["values"] == [20.0, 24.0]
    assert (seeds["baseline"]["mean"], seeds["baseline"]["std"]) == (22.0, 2.83)
    assert (seeds["psl_10s"]["mean"], seeds["psl_10s"]["std"]) == (31.0, 0.0)
    assert seeds["teacher"]["values"] == [50.81]
    assert seeds["teacher"]["std"] is None


def test_the_printed_table_sets_the_papers_numbers_beside_ours(
    reported: tuple[Path, str],
) -> None:
    """Readers would take the miniature set's numbers for the paper's, or vice versa."""
    root, printed = reported
    table = (root / "report" / "table.md").read_text(encoding="utf-8")
    assert table.strip() == printed.strip()
    assert "AudioSet, 527 classes" in table
    assert "the miniature set, 3 classes, 24 evaluation clips" in table
    assert "mean ± standard deviation of 2 seeds" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        "| Weak baseline | 17.69 | 22.00 ± 2.83 | 0.812 | 1.25 |",
        "| PSL-10s | 31.13 | 31.00 ± 0.00 | 0.812 | 1.25 |",
        "| PSL-5s | 34.11 | 40.50 ± 0.71 | 0.812 | 1.25 |",
        "| PSL-2s | 35.48 | 43.50 ± 2.12 | 0.812 | 1.25 |",
        "| Teacher | 40.53 (1) | 50.81 | 0.812 | 1.25 |",
    ]


@pytest.mark.parametrize("name", ["table.png", "curves.png", "clip.png"])
def test_pictures_are_whole_and_fit_a_readme(
    reported: tuple[Path, str], name: str
) -> None:
    """Readers of the README would see a broken, tiny or empty picture."""
    image = pytest.importorskip("PIL.Image")
    root, _ = reported
    with image.open(root / "report" / name) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert width == 900
    assert 300 <= height <= 1200
    assert len(colors) > 50
    assert max(colors)[1] == (255, 255, 255)


def test_one_seed_has_no_deviation(
    report: ModuleType, tmp_path: Path, dataset: Path
) -> None:
    """The quick demonstration, one seed, would fail or claim a deviation of nothing."""
    root, data = write_demonstration(tmp_path, dataset)
    (root / "seed10").rename(root / "elsewhere")
    report.main([str(root), "--data", str(data)])
    seeds = json.loads((root / "table_seeds.json").read_text())["systems"]
    assert seeds["psl_2s"]["values"] == [42.0]
    assert seeds["psl_2s"]["std"] is None
    table = (root / "report" / "table.md").read_text(encoding="utf-8")
    assert "| PSL-2s | 35.48 | 42.00 | 0.812 | 1.25 |" in table
    assert "±" not in table


def test_the_clip_with_most_sounds_and_best_labels_is_drawn(
    report: ModuleType, tmp_path: Path, dataset: Path
) -> None:
    """Readers would see a clip that explains nothing, or strips beside wrong names.

    Clip 9 has perfect labels, but two of its three classes sound at the same times.
    """
    figures = pytest.importorskip("matplotlib.figure")
    root, data = write_demonstration(tmp_path, dataset)
    audio = open_index(dataset, kind="audio")
    labels = open_index(root / "labels_eval_2s", kind="labels")
    clips = report.read_clips(audio, labels, data / "strong.csv")
    figure = figures.Figure()
    report.draw_clip(figure, clips, audio)
    top, bottom = figure.axes
    assert (
        "clip7_0,\nbest match of labels and events with 3 sounds (cosine 0.98"
        in top.get_title()
    )
    names = [label.get_text() for label in bottom.get_yticklabels()]
    assert names == ["Tone low", "Tone mid", "Tone high"]
    numbers = [text.get_text() for text in bottom.texts]
    assert numbers[:4] == ["0.90", "0.00", "0.00", "0.00"]
    assert numbers[4:8] == ["0.00", "0.90", "0.30", "0.00"]
    assert top.get_xlim() == bottom.get_xlim() == (0.0, 2.0)


@pytest.mark.parametrize(
    ("events", "probs", "expected"),
    [
        ([(0.0, 1.0, 0)], [[1, 0], [0, 0]], (1, 1.0)),
        ([(0.0, 1.0, 0)], [[0, 0], [1, 0]], (1, 0.0)),
        ([(0.0, 1.0, 0)], [[0.6, 0.8], [0, 0]], (1, 0.6)),
        ([(0.0, 2.0, 0)], [[1, 0], [1, 0]], (0, 1.0)),
        ([(0.0, 1.0, 0), (0.5, 1.0, 0)], [[1, 0], [0, 0]], (1, 1.0)),
        ([(0.0, 1.0, 0), (0.0, 1.0, 1)], [[1, 1], [0, 0]], (1, 1.0)),
        ([(0.0, 1.0, 0), (1.0, 2.0, 1)], [[1, 0], [0, 1]], (2, 1.0)),
        ([], [[1, 0], [0, 0]], (0, 0.0)),
    ],
)
def test_the_rank_of_a_clip_is_its_sounds_then_the_cosine_of_labels_and_events(
    report: ModuleType,
    events: list[tuple[float, float, int]],
    probs: list[list[float]],
    expected: tuple[int, float],
) -> None:
    """The picture's caption would state an agreement that is not there."""
    clip = (np.array([0.0, 1.0, 2.0]), np.array(probs, float), events)
    assert report.rank_clip(clip) == pytest.approx(expected)


@pytest.mark.parametrize(
    "missing",
    [
        "root/teacher/eval/metrics.json",
        "root/seed10/psl_5s/eval/metrics.json",
        "root/seed2/baseline/metrics.jsonl",
        "root/labels_eval_2s/index.json",
        "data/shards/eval",
        "data/strong.csv",
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(
    report: ModuleType,
    tmp_path: Path,
    dataset: Path,
    missing: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever stopped the demonstration half way would get a traceback, or half a
    table that looks finished.
    """
    root, data = write_demonstration(tmp_path, dataset)
    (tmp_path / missing).unlink()
    with pytest.raises(SystemExit) as exit_info:
        run_main(lambda: report.main([str(root), "--data", str(data)]))
    assert exit_info.value.code == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / missing) in line
    assert "make demo" in line
    assert not (root / "table.json").exists()


def test_the_table_says_which_differences_are_more_than_noise(
    tmp_path: Path, report: ModuleType
) -> None:
    """A beginner would conclude from half a point that the method does not work."""
    rng = np.random.default_rng(0)
    targets = rng.random((200, 4)) < 0.3
    for name, weight in (
        ("baseline", 0.0),
        ("psl_10s", 0.6),
        ("psl_5s", 0.6),
        ("psl_2s", 2.0),
    ):
        folder = tmp_path / "seed0" / name / "eval"
        folder.mkdir(parents=True)
        scores = (rng.random(targets.shape) + weight * targets) / 3
        keys = np.array([f"c{n}_0".encode() for n in range(200)])
        write_scores(folder, StoredScores(keys, tuple("abcd"), targets, scores))
    lines = report.differences_markdown(tmp_path).splitlines()
    verdicts = [line.rpartition(", ")[2] for line in lines if " minus " in line]
    assert verdicts[0] == verdicts[2] == "more than noise"
    assert verdicts[1] == "no more than noise"
    assert "Another seed moves" in lines[-1]
    (tmp_path / "seed0" / "psl_2s" / "eval" / "scores.npz").unlink()
    assert report.differences_markdown(tmp_path) == ""
