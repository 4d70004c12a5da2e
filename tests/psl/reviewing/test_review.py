"""psl review: which chunks, and what is written."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import psl
from psl import review
from psl.data.corrections_file import read_corrections
from psl.reviewing.queue import (
    disagreement,
    every_chunk,
    find_items,
    make_item,
    of_class,
    of_scores,
    shown_names,
)
from psl.reviewing.session import Session
from psl.reviewing.store import Store
from psl.serving.local import Request
from shards.dataset.clips import open_dataset
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.system.exits import JobError
from tests.conftest import MIDS


def test_the_chunks_with_the_greatest_disagreement_come_first(
    labels: Path, dataset: Path
) -> None:
    """People would listen to clips that nobody doubts."""
    found = psl.read_labels(labels, audio=str(dataset))
    clips = open_dataset(dataset)
    items = find_items(found, clips, disagreement, number=2)
    assert {item.key for item in items} == {clips.keys[1], clips.keys[2]}
    first = next(item for item in items if item.key == clips.keys[1])
    assert first.classes[0] == 0 and first.score == pytest.approx(0.97, abs=2e-3)
    again = find_items(found, clips, disagreement, number=1, without={items[0].part})
    assert again[0].part == items[1].part


def test_a_class_and_a_list_pick_other_chunks(labels: Path, dataset: Path) -> None:
    """--class and --list would show whatever is first."""
    found = psl.read_labels(labels, audio=str(dataset))
    clips = open_dataset(dataset)
    items = find_items(found, clips, of_class(1, 0.7, 0.85), number=50)
    assert all(0.7 <= item.probs[0] <= 0.85 and item.classes[0] == 1 for item in items)
    items = find_items(found, clips, every_chunk, number=50, rows=[5])
    assert [(i.key, i.start, i.end) for i in items] == [
        (clips.keys[5], 0.0, 1.0),
        (clips.keys[5], 1.0, 2.0),
    ]


def test_scores_of_any_class_pick_chunks() -> None:
    """--scores alone would show chunks that the teacher is sure of."""
    probs = np.array([[0.1, 0.9], [0.5, 0.45], [0.3, 0.35], [0.7, 0.2]])
    found = list(of_scores(0.3, 0.7)(probs, np.zeros(2, np.bool_)))
    assert [(k, c) for _, k, c in found] == [(1, 0), (2, 1), (3, 0)]
    assert [score for score, _, _ in found] == pytest.approx([1, 0.25, 0])


def test_two_classes_of_one_name_are_told_apart() -> None:
    """A decision would go to the other class; only mids are unique."""
    classes = Classes(("/m/a", "/m/b", "/m/c"), ("Bell", "Dog", "Bell"))
    assert shown_names(classes) == ["Bell [/m/a]", "Dog", "Bell [/m/c]"]


def test_a_list_says_which_keys_are_not_there(
    labels: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Clips that somebody asked for would be left out in silence."""
    key = open_dataset(dataset).keys[5]
    (tmp_path / "list").write_text(f'"{key}", 0.0\n , ,\nnobody\n')
    words = [str(labels), "--audio", str(dataset), "--out", str(tmp_path / "c")]
    words += ["--list", str(tmp_path / "list")]
    review.main([*words, "--export-label-studio", str(tmp_path / "studio")])
    (task,) = json.loads((tmp_path / "studio" / "tasks.json").read_text())
    assert task["data"]["key"] == key and len(task["data"]["chunks"]) == 2
    assert "1 of 2 first words, such as nobody, are not keys of" in caplog.text


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """One bad line would make all decisions of the file unreadable."""
    path = tmp_path / "c.jsonl"
    with Store(path) as store:
        store.decide(("a", 0.0, 1.0), {"/m/a": True})
        bad = [(1.0, 0.5, True), (-1.0, 1.0, True), (0.0, float("nan"), True)]
        for start, end, is_there in bad:
            with pytest.raises(ShardError, match="expected a part of a clip"):
                store.decide(("a", start, end), {"/m/a": is_there})
        with pytest.raises(ShardError, match="decided with 0 classes"):
            store.decide(("a", 0.0, 1.0), {})
    assert [d.key for d in read_corrections(path).decisions] == ["a"]


def test_undo_of_an_earlier_day_asks_about_the_same_classes(
    labels: Path, dataset: Path, tmp_path: Path
) -> None:
    """Whoever corrects a mistake would not be shown what it was about."""
    found, clips = psl.read_labels(labels, audio=str(dataset)), open_dataset(dataset)
    key, row = clips.keys[4], 4
    unlikely = [c for c in range(3) if not clips.weak_labels([row])[0][c]]
    mid = clips.classes.mids[unlikely[0]]  # 0.1 and no weak label: else not asked
    with Store(tmp_path / "c.jsonl") as store:
        store.decide((key, 0.0, 1.0), {mid: True})
        session = Session([], found, clips, store)
        undone = session.routes["POST", "undo"](Request({}, b"{}"))
        assert json.loads(undone.body) == {"item": 0, "num_held": 0}
        shown = json.loads(session.routes["GET", "items"](Request({}, b"")).body)
    asked = shown["items"][0]["classes"]
    assert asked[0]["mid"] == mid and len(asked) > 1


def test_weak_labels_are_asked_about_however_many_the_teacher_names() -> None:
    """A weak label that the teacher doubts is what a person should judge."""
    probs = np.full(20, 0.6)
    probs[19] = 0.01

    class Labels:
        keys = ("a",)

        def __getitem__(self, row: int) -> np.ndarray:
            return probs[None]

        def times(self, row: int) -> tuple[np.ndarray, np.ndarray]:
            return np.array([0.0]), np.array([2.0])

    table = SimpleNamespace(label=np.array([19]), label_start=np.array([0, 1]))
    audio = SimpleNamespace(classes=range(20), index=SimpleNamespace(table=table))
    item = make_item(cast(Any, Labels()), cast(Any, audio), 0, 0, [3], 1.0)
    assert item.classes == (3, 19, 0, 1, 2, 4, 5, 6)


def test_decisions_are_appended_undone_and_found_again(tmp_path: Path) -> None:
    """A day of work would be lost with the first mistake."""
    path = tmp_path / "c.jsonl"
    with Store(path) as store:
        store.decide(("a", 0.0, 1.0), {"/m/a": True})
        store.skip(("b", 0.0, 1.0))
        with pytest.raises(JobError, match="another psl review writes it"):
            Store(path)
    with open(path, "ab") as stream:
        stream.write(b'{"id": 3, "ti')  # killed in the middle
    with Store(path) as store:
        assert [line.key for line in store.held()] == ["a", "b"]
        undone = store.undo()
        assert undone is not None and undone.key == "b"
        store.decide(("a", 0.0, 1.0), {"/m/a": False})
    last = read_corrections(path).decisions[-1]
    assert last.classes == {"/m/a": False} and last.id == 4
    assert path.read_bytes().endswith(b"\n")


def test_a_full_disk_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line would make the file unreadable, or a decision seem saved."""
    path = tmp_path / "c.jsonl"
    real = os.write

    def full(handle: int, data: Any) -> int:
        if len(data) > 10:
            return real(handle, bytes(data[:10]))
        raise OSError(errno.ENOSPC, "No space left on device")

    with Store(path) as store:
        store.decide(("a", 0.0, 1.0), {"/m/a": True})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space left .*free some space"):
                store.decide(("b", 0.0, 1.0), {"/m/a": True})
        store.decide(("c", 0.0, 1.0), {"/m/a": True})
    assert [d.key for d in read_corrections(path).decisions] == ["a", "c"]


def test_kill_9_loses_no_decision(labels: Path, dataset: Path, tmp_path: Path) -> None:
    """What the page said is saved must be there."""
    out = tmp_path / "c.jsonl"
    words = [str(labels), "--audio", str(dataset), "--out", str(out), "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-m", "psl.review", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://\S+", line)
        assert url is not None, line
        body = json.dumps({"item": 0, "classes": {MIDS[0]: True}}).encode()
        with urllib.request.urlopen(f"{url[0]}decide", data=body, timeout=60) as reply:
            assert json.load(reply) == {"num_held": 1}
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(read_corrections(out).decisions) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "Tone hgh"], "not one of the 3 classes .*near it: Tone high"),
        (["--list", "nowhere"], "nowhere"),
        (["--class", "Tone low", "--scores", "0.4", "0.6"], "no chunk to look at"),
    ],
)
def test_what_cannot_be_is_one_line(
    labels: Path, dataset: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    """Else a traceback at the end of a search through all labels."""
    common = [str(labels), "--audio", str(dataset), "--out", str(tmp_path / "c")]
    with pytest.raises((ValueError, ShardError, OSError), match=message):
        review.main([*common, *words])


def test_what_is_no_label_dataset_is_told_to_be_none(
    dataset: Path, tmp_path: Path
) -> None:
    """A misspelt folder was told to lack the name of its audio."""
    with pytest.raises(ShardError, match="expected a finished labels dataset"):
        review.main([str(tmp_path / "nowhere"), "--no-browser"])
    with pytest.raises(ShardError, match="holds audio, expected labels"):
        review.main([str(dataset), "--no-browser"])
