"""psl review and Label Studio: tasks out, annotations in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from psl import review
from psl.data.corrections_file import read_corrections
from psl.reviewing.store import Store
from shards.dataset.clips import open_dataset
from shards.errors import ShardError
from tests.conftest import MIDS


def test_label_studio_gets_tasks_and_gives_decisions(
    labels: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Teams that annotate there could not use it."""
    out, folder = tmp_path / "c.jsonl", tmp_path / "studio"
    words = [str(labels), "--audio", str(dataset), "--out", str(out)]
    review.main([*words, "--number", "3", "--export-label-studio", str(folder)])
    tasks = json.loads((folder / "tasks.json").read_text())
    clips = open_dataset(dataset)
    assert len(tasks) == 3 and len(list((folder / "audio").iterdir())) == 3
    region = tasks[0]["predictions"][0]["result"][0]
    assert region["value"]["end"] - region["value"]["start"] == 1.0
    assert (
        f'value="{region["value"]["labels"][0]}"' in (folder / "config.xml").read_text()
    )
    chunk = tasks[0]["data"]["chunks"][0]
    heard = {"start": chunk["start"] + 0.5, "end": chunk["start"] + 0.9}
    name = clips.classes.names[1]
    result = [{**region, "value": {**heard, "channel": 0, "labels": [name]}}]
    tasks[0]["annotations"] = [
        {"result": [], "was_cancelled": True},
        {"result": result, "was_cancelled": False},
    ]
    for task in tasks[1:]:
        task["annotations"] = []
    (tmp_path / "done.json").write_text(json.dumps(tasks))
    review.main([*words, "--import-label-studio", str(tmp_path / "done.json")])
    (decision,) = read_corrections(out).decisions
    assert decision.key == tasks[0]["data"]["key"]
    assert decision.classes == {m: m == MIDS[1] for m in {*chunk["classes"], MIDS[1]}}
    tasks[0]["annotations"][1]["result"][0]["value"]["labels"] = ["Nobody"]
    (tmp_path / "bad.json").write_text(json.dumps(tasks))
    with pytest.raises(ShardError, match="task 1: label 'Nobody' is not one of"):
        review.main([*words, "--import-label-studio", str(tmp_path / "bad.json")])
    assert len(read_corrections(out).decisions) == 1


def test_an_export_of_label_studio_itself_is_read(
    labels: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its real form would be refused, or the answers of people taken for others.

    The file is the export of a server of Label Studio 1.23.2, without the copies of
    predictions. Somebody accepted clip4 in its pages; in clip2 added a class to the
    first chunk and drew a region again; skipped clip3; removed all of clip5; and
    accepted clip0, to which an empty annotation came by its API before the second
    region of the first one was removed. clip1 is open.
    """
    export = Path(__file__).with_name("label_studio_1.23.2.json")
    out = tmp_path / "c.jsonl"
    words = [str(labels), "--audio", str(dataset), "--out", str(out)]
    review.main([*words, "--import-label-studio", str(export)])
    assert (
        "8 decisions and 2 skipped chunks added; already there: 0, open tasks: 1"
        in capsys.readouterr().out
    )
    low, mid, high = MIDS
    said = {(d.key, d.start): d.classes for d in read_corrections(out).decisions}
    assert said == {
        ("clip4_0", 0.0): {mid: True, low: False},
        ("clip4_0", 1.0): {mid: True, low: False},
        ("clip2_0", 0.0): {low: True, high: True, mid: True},
        ("clip2_0", 1.0): {low: True, high: False},
        ("clip5_0", 0.0): {mid: False, high: False},
        ("clip5_0", 1.0): {mid: False, high: False},
        ("clip0_0", 0.0): {low: True},
        ("clip0_0", 1.0): {low: False},
    }
    size = out.stat().st_size
    review.main([*words, "--import-label-studio", str(export)])
    assert (
        "0 decisions and 0 skipped chunks added; already there: 10,"
        in capsys.readouterr().out
    )
    assert out.stat().st_size == size
    with Store(out) as store:
        skips = [(d.key, d.start) for d in store.held() if d.action == "skipped"]
    assert skips == [("clip3_0", 0.0), ("clip3_0", 1.0)]


def test_label_studio_shows_what_is_asked_and_one_region_for_a_chunk(
    labels: Path, dataset: Path, tmp_path: Path
) -> None:
    """Regions upon each other cannot be selected; nobody would know the chunk."""
    (tmp_path / "list").write_text("clip2_0\n")
    words = [str(labels), "--audio", str(dataset), "--out", str(tmp_path / "c")]
    words += ["--list", str(tmp_path / "list")]
    review.main([*words, "--export-label-studio", str(tmp_path / "studio")])
    (task,) = json.loads((tmp_path / "studio" / "tasks.json").read_text())
    asked = "0 to 1 s: Tone low, Tone high; 1 to 2 s: Tone low, Tone high"
    assert task["data"]["asked"] == asked
    values = [region["value"] for region in task["predictions"][0]["result"]]
    both = ["Tone low", "Tone high"]
    assert values == [
        {"start": 0.0, "end": 1.0, "channel": 0, "labels": both},
        {"start": 1.0, "end": 2.0, "channel": 0, "labels": both},
    ]
    config = ElementTree.parse(tmp_path / "studio" / "config.xml").getroot()
    (choices,), (header,) = config.findall("Labels"), config.findall("Header")
    assert choices.get("choice") == "multiple" and header.get("value") == "$asked"


@pytest.mark.parametrize(
    ("chunk", "label", "message"),
    [
        ({"start": 1.0, "end": 0.5}, "Tone low", "1 to 0.5 s is no chunk of clip"),
        ({"start": 100, "end": 200}, "Tone low", "100 to 200 s is no chunk of clip"),
        ({"start": float("nan")}, "Tone low", "nan to .* s is no chunk of clip"),
        ({"classes": ["/m/none"]}, "Tone low", "asks for classes /m/none; expected"),
        ({"classes": []}, "Tone low", "asks for classes none; expected"),
        ({}, ["Tone low"], "is not one of the classes"),
    ],
)
def test_a_spoilt_export_of_label_studio_adds_nothing(
    labels: Path,
    dataset: Path,
    tmp_path: Path,
    chunk: dict[str, Any],
    label: Any,
    message: str,
) -> None:
    """Its bad lines would make the decisions of a day unreadable."""
    out, folder = tmp_path / "c.jsonl", tmp_path / "studio"
    words = [str(labels), "--audio", str(dataset), "--out", str(out)]
    review.main([*words, "--number", "2", "--export-label-studio", str(folder)])
    tasks = json.loads((folder / "tasks.json").read_text())
    region = {"type": "labels", "value": {"start": 0, "end": 1, "labels": [label]}}
    for task in tasks:
        task["annotations"] = [{"result": [region]}]
    tasks[0]["annotations"] = [{"result": []}]
    tasks[1]["data"]["chunks"][0].update(chunk)
    (tmp_path / "done.json").write_text(json.dumps(tasks))
    with pytest.raises(ShardError, match=f"task 2: .*{message}"):
        review.main([*words, "--import-label-studio", str(tmp_path / "done.json")])
    assert read_corrections(out).decisions == ()
