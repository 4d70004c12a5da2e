"""What ``shards.info`` says of a dataset, against counts made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from shards import info
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.classes import Classes
from shards.format.label_codec import encode_labels
from tests.conftest import MIDS, Run

NAMES = ("Low", "Mid", "High, and more")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Four clips of 1, 2, 3 and 10 s at 100 Hz in two shards, the last unlabelled."""
    folder = tmp_path / "audio"
    builder = DatasetBuilder(
        folder,
        "audio",
        Classes(MIDS, NAMES),
        {"codec": "wav", "sample_rate": 100},
        {"packed_by": "hand", "colour": "\x1b[31mred"},
    )
    builder.begin()
    rows = [
        Row(f"clip{n}_0", "wav", bytes(2 * count + 44), count, labels)
        for n, (count, labels) in enumerate(
            [(100, (2,)), (200, (0, 2)), (300, (2,)), (1000, ())]
        )
    ]
    builder.add("a.tar", rows[:3])
    builder.add("b.tar", rows[3:])
    assert builder.publish(["a.tar", "b.tar"])
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two clips of 1 and 3 chunks of 2 s."""
    folder = tmp_path / "labels"
    properties = {"chunk_samples": 200, "hop_samples": 100, "sample_rate": 100}
    made = {"teacher_sha256": "feed"}
    builder = DatasetBuilder(folder, "labels", Classes(MIDS, NAMES), properties, made)
    builder.begin()
    rows = [
        Row(f"clip{n}_0", "npy", encode_labels(np.zeros((chunks, 3))), chunks)
        for n, chunks in enumerate([1, 3])
    ]
    builder.add("a.tar", rows)
    assert builder.publish(["a.tar"])
    return folder


def described(capsys: pytest.CaptureFixture[str], *folders: Path) -> dict:
    info.main([*map(str, folders), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_program_reads_what_an_audio_dataset_holds(
    audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a job script cannot tell a whole dataset from a part of it."""
    (report,) = described(capsys, audio)["datasets"]
    fields = json.loads((audio / "index.json").read_text())
    assert report == {
        "folder": str(audio),
        "kind": "audio",
        "clips": 4,
        "shards": 2,
        "bytes": {"shards": 20480, "members": 244 + 444 + 644 + 2044},
        "properties": {"codec": "wav", "sample_rate": 100},
        "num_classes": 3,
        "fingerprint": fields["fingerprint"],
        "provenance": [{"packed_by": "hand", "colour": "\x1b[31mred"}],
        "seconds": {"total": 16.0, "min": 1.0, "median": 2.5, "max": 10.0},
        "labels_per_clip": {"mean": 1.0, "min": 0, "median": 1.0, "max": 2},
        "clips_without_labels": 1,
        "classes_without_clips": 1,
        "classes": [
            {"mid": "/m/high", "name": "High, and more", "clips": 3},
            {"mid": "/m/low", "name": "Low", "clips": 1},
            {"mid": "/m/mid", "name": "Mid", "clips": 0},
        ],
    }


def test_a_program_reads_what_a_label_dataset_holds(
    labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else nobody knows which teacher labelled how finely."""
    (report,) = described(capsys, labels)["datasets"]
    assert report["kind"] == "labels"
    assert report["chunks"] == 4
    assert report["chunks_per_clip"] == {"min": 1, "median": 2.0, "max": 3}
    assert (report["chunk_seconds"], report["hop_seconds"]) == (2.0, 1.0)
    assert report["bytes"] == {"shards": 10240, "members": 128 + 6 + 128 + 18}
    assert report["provenance"] == [{"teacher_sha256": "feed"}]


def test_several_datasets_are_added_up(
    audio: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else who trains on two sets adds hours by hand."""
    assert described(capsys, audio, labels)["total"] == {
        "folders": 2,
        "clips": 6,
        "shards": 3,
        "bytes": {"shards": 30720, "members": 3376 + 280},
        "seconds": {"total": 16.0},
    }
    info.main([str(audio), str(labels)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("together: 6 clips in 3 shards of 2 folders, 0.00 hours")


def test_people_read_an_aligned_page(
    audio: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the numbers are there, but nobody looks at them."""
    info.main([str(audio), str(labels), "--classes", "2"])
    out = capsys.readouterr().out
    for line in (
        "  kind         audio",
        "  clips        4 in 2 shards",
        "  audio        wav, 100 Hz, mono",
        "  length       0.00 hours; clips of 1.00 to 10.00 s, median 2.50 s",
        "  labels       1.00 a clip (0 to 2); 1 clips without",
        "  classes      2 of 3 have clips",
        "  bytes        20,480; 844 of audio a clip",
        "  made         packed_by  hand",
        "      3  High, and more (/m/high)",
        "      1  Low (/m/low)",
        "         and 1 more; --classes 3 shows all",
        "  chunks       4; 1 to 3 a clip; of 2 s, every 1 s",
    ):
        assert line in out.splitlines(), out


def test_what_others_wrote_into_a_dataset_does_not_steer_the_terminal(
    audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else looking at a downloaded dataset types commands into some terminals."""
    info.main([str(audio)])
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert r"colour     \u001b[31mred" in out


def test_a_folder_that_is_no_dataset_ends_in_one_line(
    tmp_path: Path, run: Run, audio: Path
) -> None:
    """Else a typing error shows a traceback, or a script goes on."""
    result = run("shards.info", str(audio), str(tmp_path / "nowhere"))
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "nowhere/index.json: not found; expected a finished" in result.stderr
    (audio / "b.tar").unlink()
    result = run("shards.info", str(audio))
    assert result.returncode == 78 and "b.tar: missing" in result.stderr
