"""Events in time on the mini set: the commands, and what is written of them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from psl.config import parse
from psl.config_values import read_words
from psl.detection.config import EventsConfig
from psl.evaluation.config import EvaluateConfig
from psl.labelling.config import LabelConfig
from psl.models.config import MobileNetV2Config
from psl.training.config import TrainConfig
from shards.errors import ShardError

pytestmark = pytest.mark.usefixtures("in_the_repository")

CONFIGS = {
    "psl.train": TrainConfig,
    "psl.label": LabelConfig,
    "psl.evaluate": EvaluateConfig,
    "psl.events": EventsConfig,
}
NAMES = ("baseline", "psl_10s", "psl_5s", "psl_2s")


def commands(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], *more: str
) -> list[tuple[str, Any]]:
    """The module of each command, and its configuration or its words."""
    tools.main(["events", "--root", "r", "--data", "d", "--print", *more])
    found = []
    for line in capsys.readouterr().out.splitlines():
        words = shlex.split(line.rpartition(" -m ")[2])
        config = CONFIGS.get(words[0])
        rest: Any = words[1:]
        found.append((words[0], parse(config, read_words(rest)) if config else rest))
    return found


def test_every_command_is_a_configuration_that_its_module_takes(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown key would end the job after half an hour of training."""
    found = commands(tools, capsys, "--seeds", "0,4")
    counts = Counter(module for module, _ in found)
    assert counts == {
        "tools.mini.audioset": 1,
        "shards.pack": 4,
        "psl.train": 1 + 2 * 8,
        "psl.evaluate": 1 + 2 * 8,
        "psl.label": 3 + 3,
        # frames and windows, of finer frames alone
        "psl.events": 2 + 3 + 2 * (8 + 4),
        "psl.label_report": 3,
    }
    for _, config in found:
        if isinstance(config, EventsConfig):
            assert (config.audio, config.fit_audio) == ("d/shards/eval", "d/shards/dev")
            assert config.strong == config.fit_strong == "d/strong.csv"


def test_finer_students_differ_in_their_frames_alone(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table would compare recipes, and say that it compares frames."""
    found = commands(tools, capsys, "--seeds", "2")
    runs: dict[str, TrainConfig] = {
        Path(config.run_dir).name: config
        for module, config in found
        if module == "psl.train" and "seed" in config.run_dir
    }
    assert set(runs) == {*NAMES, *(f"{name}_fine" for name in NAMES)}
    for name in NAMES:
        coarse, fine = runs[name], runs[f"{name}_fine"]
        for run, seconds in ((coarse, 0.64), (fine, 0.16)):
            front_end: Any = run.model.front_end
            hop = front_end.hop_length / front_end.sample_rate
            assert getattr(run.model, "time_stride", 0) * hop == pytest.approx(seconds)
        assert isinstance(coarse.model, MobileNetV2Config)
        model = dataclasses.replace(coarse.model, time_stride=4)
        same = dataclasses.replace(coarse, run_dir=fine.run_dir, model=model)
        assert same == fine


@pytest.mark.parametrize(("frames", "end"), [("coarse", "2s"), ("fine", "2s_fine")])
def test_one_kind_of_frames_can_be_made_alone(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], frames: str, end: str
) -> None:
    """A user who has no time for both would get neither."""
    words = ("--rows", "psl_2s", "--seeds", "1", "--frames", frames)
    runs = [c.run_dir for m, c in commands(tools, capsys, *words) if m == "psl.train"]
    assert runs == ["r/teacher", f"r/seed1/psl_{end}"]


def test_labels_have_the_rules_of_their_teacher_in_such_windows(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher would stand there with thresholds that its students may choose."""
    found = commands(tools, capsys, "--rows", "psl_2s", "--seeds", "0")
    fitted = {
        f"{config.out}/rules.json": config.window_seconds
        for module, config in found
        if module == "psl.events" and config.fit_strong
    }
    reports = [words for module, words in found if module == "psl.label_report"]
    for words, seconds in zip(reports, (10, 5, 2), strict=True):
        assert words[0] == f"r/labels_eval_{seconds}s"
        assert fitted[words[words.index("--rules") + 1]] == seconds
        assert words[words.index("--audio") + 1] == "d/shards/eval"


def write(path: Path, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def write_run(run: Path, folder: str, psds1: float, segment_map: float) -> None:
    """What psl.events leaves of one student."""
    shared = {"psds2": 0.4, "segment_f1_macro": 0.25, "event_f1_macro": 0.125}
    found = {**shared, "psds1": psds1, "segment_mAP": segment_map}
    write(run / folder / "metrics.json", **found)


def test_the_table_has_means_intervals_and_paired_differences(
    tools: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A difference over other seeds, or noise without its interval, would be believed.

    Student's t at 97.5 % with one degree of freedom is 12.706.
    """
    for seed, weak, strong, fine in ((0, 0.10, 0.20, 0.26), (1, 0.12, 0.26, 0.34)):
        write_run(tmp_path / f"seed{seed}" / "baseline", "events", weak, 0.5)
        write_run(tmp_path / f"seed{seed}" / "psl_2s", "events", strong, 0.6)
        write_run(tmp_path / f"seed{seed}" / "psl_2s_fine", "events", fine, 0.6)
    write_run(
        tmp_path / "seed2" / "psl_2s", "events", 0.9, 0.9
    )  # the weak one lacks it
    names = ("psds1", "psds2", "segment_mAP", "segment_f1_macro", "event_f1_macro")
    values = dict(zip(names, (0.3, 0.5, 0.7, 0.45, 0.15), strict=True))
    write(tmp_path / "labels_eval_2s" / "report" / "report.json", in_time=values)
    page = tmp_path / "page.md"
    marks = "<!-- results: begin -->\nold\n<!-- results: end -->"
    page.write_text(f"# Mine\n{marks}\n")
    words = ["--root", str(tmp_path), "--data", "d", "--report", "--page", str(page)]
    tools.main(["events", *words])
    text = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
    ]
    table = {tuple(row[:2]): row[2:] for row in rows if len(row) > 2}
    assert table["Weak baseline", "Frames of 0.64 s"] == [
        "11.0 ± 1.4 (-1.7 to 23.7)",  # 11 -+ 12.706 * sqrt(2) / sqrt(2)
        "40.0 ± 0.0 (40.0 to 40.0)",
        "50.0 ± 0.0 (50.0 to 50.0)",
        "25.0 ± 0.0 (25.0 to 25.0)",
        "12.5 ± 0.0 (12.5 to 12.5)",
        "2",
    ]
    assert table["PSL-2s", "Frames of 0.64 s"][-1] == "3"
    labels = table["Teacher", "Labels of 2-s chunks"]
    assert labels == ["30.0", "50.0", "70.0", "45.0", "15.0", "1"]
    gap = table["PSL-2s minus Weak baseline", "Frames of 0.64 s"]
    # gaps of 10 and 14: 12 -+ 12.706 * 2.828 / 1.414
    assert (gap[0], gap[2]) == ("+12.0 (-13.4 to +37.4)", "+10.0 (+10.0 to +10.0)")
    assert gap[-1] == "2"
    finer = table["PSL-2s", "Frames of 0.16 s minus frames of 0.64 s"]
    assert finer[0] == "+7.0 (-5.7 to +19.7)"  # gaps of 6 and 8
    assert text.strip() in page.read_text() and "old" not in page.read_text()


@pytest.mark.parametrize(
    "more", [("--rows", "psl_3s"), ("--seeds", "a"), ("--jobs", "0")]
)
def test_a_wrong_word_is_refused_before_anything_runs(
    tools: ModuleType, more: tuple[str, ...]
) -> None:
    """The teacher would be trained before the typing error is found."""
    with pytest.raises(SystemExit):
        tools.main(["events", *more])


def test_numbers_of_an_earlier_version_are_refused(
    tools: ModuleType, tmp_path: Path
) -> None:
    """A row would be missing from the table, and nobody would know why."""
    write(tmp_path / "seed0" / "psl_2s" / "events" / "metrics.json", psds1=0.5)
    with pytest.raises(ShardError, match="metrics.json: no psds2, as an earlier versi"):
        tools.main(["events", "--root", str(tmp_path), "--report"])


def test_a_report_of_nothing_is_refused(tools: ModuleType, tmp_path: Path) -> None:
    """An empty table would go into the documentation."""
    with pytest.raises(ShardError, match="no measured student in it; run this without"):
        tools.main(["events", "--root", str(tmp_path), "--report"])
