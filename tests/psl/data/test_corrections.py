"""Corrections: what a file says, and which targets and weak labels it changes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import psl
from psl import evaluate, label_report, train
from psl.config import parse
from psl.config_values import read_words
from psl.data.corrections import CorrectedLabels, _Said, with_corrections
from psl.data.corrections_file import Line, head_line, read_corrections
from psl.training.config import TrainConfig
from psl.training.datasets import open_data
from shards.errors import ShardError
from shards.format.index import Index, open_index
from tests.conftest import MIDS
from tests.learning import losses, tiny_config

Said = tuple[float, float, bool]


def write(path: Path, *said: tuple[str, float, float, dict[str, bool]]) -> Path:
    """A file with these decisions."""
    lines = [
        Line(n, "2026-11-29T05:00:00+0000", "decided", *what).to_json()
        for n, what in enumerate(said, start=1)
    ]
    path.write_text(head_line() + "".join(lines))
    return path


@pytest.mark.parametrize(
    ("said", "asked", "expected"),
    [
        ([(2, 4, True)], (2, 4), True),
        ([(2, 4, True)], (0, 10), True),  # somewhere in the clip
        ([(2, 4, True)], (2, 3), None),  # perhaps in the other half
        ([(2, 4, True)], (3, 5), None),
        ([(2, 4, False)], (2, 4), False),
        ([(2, 4, False)], (2.5, 3), False),
        ([(2, 4, False)], (0, 10), None),  # perhaps elsewhere
        ([(0, 5, False), (5, 10, False)], (0, 10), False),  # together all of it
        ([(0, 5, False), (5, 10, True)], (0, 10), True),
        ([(0, 10, False), (2, 4, True)], (2, 4), True),  # the newest wins
        ([(0, 10, False), (2, 4, True)], (4, 6), False),
        ([(0, 10, False), (2, 4, True)], (3, 6), None),
        ([(2, 4, True), (0, 10, False)], (2, 4), False),
        ([(2, 4, True), (2, 4, False)], (2, 4), False),
        ([(2, 4, False), (2, 4, True)], (2, 4), True),
        ([(2, 4, True)], (2.004, 3.996), True),  # a sample more or less
    ],
)
def test_what_a_part_says_of_a_chunk(
    said: list[Said], asked: tuple[float, float], expected: bool | None
) -> None:
    """A no about two seconds would deny a class to the whole clip, or the reverse."""
    known = _Said()
    for part in said:
        known.add(*part)
    assert known.of(*asked) is expected


@pytest.fixture
def labelled(tmp_path: Path, dataset: Path) -> Path:
    """Labels of two chunks of each clip: 0.2, 0.4 and 0.6 of the three classes."""
    index = open_index(dataset, kind="audio")
    probs = {
        index.key(row): np.tile([0.2, 0.4, 0.6], (2, 1)) for row in range(len(index))
    }
    psl.write_labels(tmp_path / "labels", dataset, probs, chunk_seconds=1.0)
    return tmp_path / "labels"


def opened(tmp_path: Path, dataset: Path, *words: str) -> Any:
    config = tiny_config(tmp_path / "run", dataset, *words)
    return open_data(parse(TrainConfig, read_words(config, TrainConfig)))


def targets(data: Any, row: int) -> np.ndarray:
    rows, chunks = np.array([row, row]), np.array([0, 1])
    return data.batch(rows, chunks, torch.device("cpu")).targets.numpy()


def test_targets_of_corrected_chunks_and_no_others_change(
    tmp_path: Path, dataset: Path, labelled: Path
) -> None:
    """Half a day of listening would have no effect, or change other clips."""
    key = open_index(dataset, kind="audio").key(3)
    _, mid, high = MIDS
    path = write(tmp_path / "c.jsonl", (key, 0.0, 1.0, {high: False, mid: True}))
    words = [f"data.labels=[{labelled}]", f"data.corrections={path}"]
    data, _, _ = opened(tmp_path, dataset, *words)
    assert targets(data, 3).tolist() == pytest.approx(
        np.array([[0.2, 1.0, 0.0], [0.2, 0.4, 0.6]]), abs=1e-3
    )
    assert targets(data, 4).tolist() == pytest.approx(
        np.array([[0.2, 0.4, 0.6]] * 2), abs=1e-3
    )


def test_weak_labels_of_a_clip_change_where_all_of_it_is_known(
    tmp_path: Path, dataset: Path
) -> None:
    """A class heard in one chunk is in the clip; one denied in a chunk may be."""
    index = open_index(dataset, kind="audio")
    before = index.table.weak_targets(np.arange(len(index)), 3)
    row = int(np.flatnonzero(before[:, 0] == 1)[0])
    other = int(np.flatnonzero(before[:, 0] == 1)[1])
    said = [
        (index.key(row), 0.0, 1.0, {MIDS[0]: False, MIDS[2]: True}),
        (index.key(row), 1.0, 2.0, {MIDS[0]: False}),
        (index.key(other), 0.0, 1.0, {MIDS[0]: False}),
    ]
    seconds = index.table.count / index.properties["sample_rate"]
    assert seconds[row] == 2.0
    corrected, _ = with_corrections(index, write(tmp_path / "c.jsonl", *said))
    after = corrected.table.weak_targets(np.arange(len(index)), 3)
    expected = before.copy()
    expected[row] = [0, before[row, 1], 1]
    assert after.tolist() == expected.tolist()
    assert corrected.fingerprint != index.fingerprint


def test_a_run_notices_that_the_corrections_changed(
    tmp_path: Path, dataset: Path, labelled: Path
) -> None:
    """The second half of a run would be trained on other labels than the first."""
    key = open_index(dataset, kind="audio").key(0)
    path = write(tmp_path / "c.jsonl", (key, 0.0, 1.0, {MIDS[0]: True}))
    words = [f"data.labels=[{labelled}]", f"data.corrections={path}"]
    train.main(tiny_config(tmp_path, dataset, *words, "epochs=1"))
    plain = tmp_path / "plain"
    train.main(tiny_config(plain, dataset, words[0], "epochs=1"))
    assert losses(tmp_path / "run") != losses(plain / "run")
    write(path, (key, 0.0, 1.0, {MIDS[0]: False}))
    with pytest.raises(ValueError, match="was trained on other data"):
        train.main(tiny_config(tmp_path, dataset, *words, "epochs=2"))


def test_evaluation_and_label_report_show_what_people_said(
    tmp_path: Path,
    dataset: Path,
    labelled: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody would see how often the labels were wrong."""
    key = open_index(dataset, kind="audio").key(0)
    path = write(
        tmp_path / "c.jsonl",
        (key, 0.0, 1.0, {MIDS[0]: False, MIDS[1]: True, MIDS[2]: True}),
    )
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    words = [f"checkpoint={tmp_path}/run", f"audio={dataset}", f"out={tmp_path}/eval"]
    evaluate.main([*words, f"corrections={path}"])
    summary = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert summary["corrected"]["labels"] == str(path)
    assert summary["corrected"]["mAP"] != summary["mAP"]
    out = tmp_path / "report"
    label_report.main(
        [
            *(str(labelled), "--audio", str(dataset), "--out", str(out)),
            *("--corrections", str(path), "--no-pictures"),
        ]
    )
    found = json.loads((out / "report.json").read_text())["reviewed"]
    # 0.2 for a no, 0.6 for a yes; 0.4 misses the other yes
    assert found["judged"] == 3 and found["present"] == 2
    assert found["labels_agree"] == pytest.approx(2 / 3)
    assert found["mean_square_error"] == pytest.approx(
        (0.04 + 0.36 + 0.16) / 3, abs=1e-3
    )
    assert "66.7 % of these" in (out / "report.md").read_text()


def test_undone_and_unfinished_lines_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kill -9 while a line is written, or a decision taken back."""
    path = write(
        tmp_path / "c.jsonl",
        ("a", 0.0, 1.0, {"/m/a": True}),
        ("b", 0.0, 1.0, {"/m/a": True}),
    )
    with open(path, "a") as stream:
        stream.write(Line(3, "t", "undone", of=1).to_json())
        stream.write('{"id": 4, "time": "t", "act')
    assert [d.key for d in read_corrections(path).decisions] == ["b"]
    assert "not finished" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: "", "no corrections; expected a file of psl review"),
        (lambda t: t.replace("psl_corrections", "other"), "line 1 has psl_corr"),
        (lambda t: t.replace('"id": 1', '"id": 2'), "line 2 has id 2, expected 1"),
        (lambda t: t.replace("decided", "maybe"), "line 2: action 'maybe'; expected"),
        (lambda t: t.replace("1.0", "-1.0"), "from 0.0 to -1.0 s; expected a part"),
        (lambda t: t.replace("1.0", "NaN"), "to nan s; expected a part"),
        (lambda t: t.replace("true", "1"), "line 2: classes must be true or false"),
        (lambda t: t + "junk\n", "line 3 is no JSON object; fix or remove it"),
        (lambda t: t + "[" * 100_000 + "\n", "line 3 is no JSON object"),
    ],
)
def test_a_damaged_file_is_refused_by_line(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    """Decisions would be dropped, or read as others."""
    path = write(tmp_path / "c.jsonl", ("a", 0.0, 1.0, {"/m/a": True}))
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ShardError, match=message):
        read_corrections(path)


def test_corrections_of_other_clips_or_classes_are_refused(
    tmp_path: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They would be ignored, and the run would look corrected."""
    index = open_index(dataset, kind="audio")

    def read(*said: tuple[str, float, float, dict[str, bool]]) -> CorrectedLabels:
        return CorrectedLabels(read_corrections(write(tmp_path / "c", *said)), index)

    with pytest.raises(ShardError, match="clips such as 'nobody'; expected clips of"):
        read(("nobody", 0.0, 1.0, {MIDS[0]: True}))
    with pytest.raises(ShardError, match="id 1: class '/m/none' is not one of the 3"):
        read((index.key(0), 0.0, 1.0, {"/m/none": True}))
    with pytest.raises(ShardError, match="'clip.*' to 9 s, but in .* it has 2 s; exp"):
        read((index.key(0), 8.0, 9.0, {MIDS[0]: True}))
    here = (index.key(0), 0.0, 1.0, {MIDS[0]: True})
    assert read(here, ("nobody", 0.0, 1.0, {MIDS[0]: True})).num_elsewhere == 1
    assert "1 of 2 decisions are about clips that are not in" in caplog.text


def test_corrections_of_nothing_change_nothing(
    tmp_path: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in which all was undone must train as none does."""
    index: Index = open_index(dataset, kind="audio")
    path = write(tmp_path / "c.jsonl")
    corrected, known = with_corrections(index, path)
    assert known is not None and known.rows == []
    assert "has no decision, and changes nothing" in caplog.text
    same = dataclasses.replace(corrected, fingerprints=index.fingerprints)
    assert same.table.label.tolist() == index.table.label.tolist()
