"""Events that cannot be measured, in psl.events and psl.evaluate: a line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from psl import evaluate, events
from psl.detection.decode import Rule
from psl.detection.measure import measure
from psl.evaluation.labels import Labels
from psl.evaluation.segments import Segments
from psl.weights.checkpoint import Checkpoint
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import open_index
from tests.conftest import MIDS

HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
DESED = "filename\tonset\toffset\tevent_label\n"
COMMANDS = pytest.mark.parametrize("main", [events.main, evaluate.main])
Main = Callable[[list[str]], Any]


def words(checkpoint: Path, audio: Path, out: Path, strong: Path) -> list[str]:
    """What both commands take."""
    named = {"checkpoint": checkpoint, "audio": audio, "out": out, "strong": strong}
    return [f"{key}={value}" for key, value in named.items()]


@COMMANDS
@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (
            HEADER + "clip0_0\t2.0\t3.0\t/m/low\nclip1_0\t5\t6\t/m/mid\n",
            ["max_left_out=1"],
            "strong.tsv: no event of the 3 classes that are measured lies in a clip of",
        ),
        (
            HEADER + "clip0_0\t0\t1\t/m/new\n",
            ["max_left_out=1"],
            "strong.tsv: no event of the 3 classes that are measured lies in a clip of",
        ),
        (
            DESED + "clip0.wav\t\t\t\nclip1.wav\t\t\t\n",
            [],
            "strong.tsv: 2 clips of this dataset, all without events; expected events",
        ),
        (
            HEADER + "clip0_0\t1\t1\t/m/low\n",
            [],
            "1 events have nothing inside their.*and clips they were made for$",
        ),
        (HEADER + "clip0_0\t-1\t1\t/m/low\n", [], "line 2: found .* 0 <= start <= end"),
        ("", [], "strong.tsv: line 1: no column segment_id"),
    ],
)
def test_events_that_measure_nothing_are_refused_before_scoring(
    main: Main,
    teacher: Path,
    dataset: Path,
    tmp_path: Path,
    text: str,
    more: list[str],
    message: str,
) -> None:
    """Hours of scoring would end in a mean of nothing, or in no sentence."""
    strong, out = tmp_path / "strong.tsv", tmp_path / "out"
    strong.write_text(text)
    with pytest.raises(ShardError, match=message):
        main([*words(teacher, dataset, out, strong), *more])
    assert not out.exists()


@COMMANDS
def test_what_does_not_count_is_said(
    main: Main,
    teacher: Path,
    dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A list of other clips, or a class list of too many, would look complete."""
    strong = tmp_path / "strong.tsv"
    lines = ["clip0_0\t1.5\t2.5\t/m/low", "clip1_0\t0\t1\t/m/low", "x_0\t0\t1\t/m/mid"]
    strong.write_text(HEADER + "\n".join([*lines, "clip1_0\t0\t1\t/m/new"]) + "\n")
    with caplog.at_level("INFO"):
        main([*words(teacher, dataset, tmp_path / "o", strong), "max_left_out=0.5"])
    said = [r.getMessage().removeprefix(f"{strong}: ") for r in caplog.records]
    expected = [
        "1 events left out",
        "1 events cut at the end of their clip",
        f"names 1 clips that are not in {dataset}, with 1 events: left out",
        "names 2 of 24 clips; only these count",
        "no event of 2 of 3 classes, which are in no mean",
    ]
    assert [line for line in said if line in expected] == expected
    text = (tmp_path / "o" / "metrics.json").read_text()
    assert "NaN" not in text and json.loads(text)


@COMMANDS
def test_a_broken_model_is_named_with_a_clip(
    main: Main,
    teacher: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NaN ranks anywhere: its PSDS would be a number."""
    build = Checkpoint.build_model

    def broken(checkpoint: Checkpoint) -> nn.Module:
        model = build(checkpoint)
        for name, value in model.named_parameters():
            if name.endswith("1.bias") and name.startswith("classifier"):
                nn.init.constant_(value, float("nan"))
        return model

    monkeypatch.setattr(Checkpoint, "build_model", broken)
    strong = tmp_path / "strong.tsv"
    strong.write_text(HEADER + "clip0_0\t0\t1\t/m/low\n")
    with pytest.raises(ValueError, match=r"clip\d+_0.* not finite.*model is broken"):
        main(words(teacher, dataset, tmp_path / "out", strong))


def test_rules_that_are_fitted_to_what_is_measured_are_told(
    teacher: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Thresholds that have seen the answers would be published as results."""
    strong, out = tmp_path / "strong.tsv", tmp_path / "o"
    strong.write_text(HEADER + "clip0_0\t0\t1\t/m/low\n")
    fit = [f"fit_audio={dataset}", f"fit_strong={strong}"]
    events.main([*words(teacher, dataset, out, strong), *fit])
    said = f"{dataset}: 1 of 1 clips are clips of {dataset}, too: its numbers will be"
    assert any(said in record.getMessage() for record in caplog.records)


@COMMANDS
def test_a_file_in_the_way_is_found_before_scoring(main: Main, tmp_path: Path) -> None:
    """An hour of scoring would end with "File exists"."""
    (tmp_path / "out").touch()
    with pytest.raises(
        ValueError, match="out: a file, expected a folder for the results"
    ):
        main(["checkpoint=c", "audio=a", f"out={tmp_path / 'out'}"])


def test_events_that_fill_their_clips_leave_a_reason_and_no_number(
    teacher: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """null, and a dash on the terminal, would be all that is said."""
    strong = tmp_path / "strong.tsv"
    strong.write_text(HEADER + "clip0_0\t0\t2\t/m/low\n")
    evaluate.main(words(teacher, dataset, tmp_path / "o", strong))
    reason = "every class sounds in all segments of its clips"
    assert f"in its clips        -  {reason}" in capsys.readouterr().out
    found = json.loads((tmp_path / "o" / "metrics.json").read_text())["segments"]
    assert found["mAP_in_positive_clips"] is None
    assert found["undefined"]["mAP_in_positive_clips"] == reason


def test_a_limit_for_left_out_events_counts_for_the_list_that_rules_are_fitted_to(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """AudioSet-strong could not be fitted to without a true list of the other audio."""
    strong = tmp_path / "strong.tsv"
    strong.write_text(HEADER + "clip0_0\t0\t1\t/m/low\nclip1_0\t0\t1\t/m/new\n")
    common = [f"checkpoint={teacher}", f"audio={dataset}", f"out={tmp_path / 'o'}"]
    fit = [f"fit_audio={dataset}", f"fit_strong={strong}"]
    with pytest.raises(ShardError, match="max_left_out=0.5"):
        events.main([*common, *fit])
    events.main([*common, *fit, "max_left_out=0.5"])
    with pytest.raises(ValueError, match="max_left_out does nothing without strong"):
        events.main([*common, "max_left_out=0.5"])


@pytest.mark.parametrize("word", ["threshold=0.3", "median_seconds=1", "min_seconds=1"])
def test_a_rule_beside_a_file_of_rules_is_refused(word: str) -> None:
    """The file would win, and trying thresholds would silently change nothing."""
    common = ["checkpoint=c", "audio=a", "out=o", "rules=rules.json"]
    with pytest.raises(ValueError, match=f"{word.split('=')[0]} does nothing with rul"):
        events.main([*common, word])


def test_classes_without_an_event_to_fit_to_are_named(
    teacher: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A threshold of 0.5 that nobody fitted would pass for a fitted one."""
    strong, out = tmp_path / "strong.tsv", tmp_path / "out"
    strong.write_text(HEADER + "clip0_0\t0\t1\t/m/mid\n")
    common = [f"checkpoint={teacher}", f"audio={dataset}", f"out={out}"]
    events.main([*common, f"fit_audio={dataset}", f"fit_strong={strong}"])
    said = f"{strong}: no event of 2 of 3 classes, such as /m/low; their rules are not"
    assert any(said in record.getMessage() for record in caplog.records)
    how = json.loads((out / "rules.json").read_text())["how"]
    assert how["not_fitted"] == ["/m/low", "/m/high"]


def test_one_clip_of_one_class_has_every_number(
    teacher: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user who tries the command on a single annotated clip would get a NaN."""
    strong = tmp_path / "strong.tsv"
    index = open_index(dataset, kind="audio")
    strong.write_text(f"{HEADER}{index.key(3)}\t0.5\t1.5\t{MIDS[0]}\n")
    for main in (events.main, evaluate.main):
        main([*words(teacher, dataset, tmp_path / "out", strong), "--json"])
        text = capsys.readouterr().out
        assert "NaN" not in text and "Infinity" not in text
        found = json.loads(text)
        found = found.get("segments", found)
        assert (found["num_clips"], found["num_classes"]) == (1, 1)


def test_no_clips_have_a_sentence() -> None:
    """The first error would be NumPy's, about arrays."""
    none = np.zeros(0, np.int64)
    truth = Labels.of(np.zeros((0, 1), np.bool_))
    segments = Segments(1.0, Chunking(8, 8), none, none, np.zeros(1, np.int64), truth)
    with pytest.raises(ValueError, match="no clips; expected scores of at least one"):
        measure([], [Rule()], segments)
