"""A folder of class folders becomes a dataset; what is wrong with one is told."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.errors import ShardError
from shards.packing.sources.class_folders import read_class_folders
from tests.conftest import Run

RATE = 16000


def write_sound(path: Path, *, hertz: float = 440.0, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), RATE)


def write_folders(folder: Path) -> Path:
    """Two classes of two and three sounds; one name is in both."""
    for number, place in enumerate(("dog/1", "dog/2", "cat/1", "cat/3", "cat/4")):
        write_sound(folder / f"{place}.wav", hertz=200.0 + 100 * number)
    return folder


def test_class_folders_become_a_dataset_without_a_csv(run: Run, tmp_path: Path) -> None:
    """A newcomer has folders of sounds, and would have to write two CSVs."""
    sounds, out = write_folders(tmp_path / "sounds"), tmp_path / "data"
    (sounds / ".hidden").mkdir()
    (sounds / "dog" / "._1.wav").write_bytes(b"of macOS")
    write_sound(sounds / "dog" / "old" / "9.wav")

    done = run("shards.pack", "--folders", str(sounds), "--out", str(out))

    assert "packed 5 clips" in done.stdout
    assert "left out 1 audio files" in done.stderr
    assert (out / "classes.csv").read_text().splitlines()[1:] == [
        "0,cat,cat",
        "1,dog,dog",
    ]
    verified = run("shards.verify", str(out))
    assert "5 clips" in verified.stdout


def test_a_corrupt_example_is_rejected_and_listed(run: Run, tmp_path: Path) -> None:
    """One bad download among many would stop the work, or go unnoticed."""
    sounds, out = write_folders(tmp_path / "sounds"), tmp_path / "data"
    (sounds / "dog" / "3.wav").write_bytes(b"no sound")
    words = ("shards.pack", "--folders", str(sounds), "--out", str(out))

    refused = run(*words)
    assert refused.returncode == 78 and "1 of 6 clips cannot be used" in refused.stderr
    done = run(*words, "--max-rejected", "0.2")

    assert "packed 5 clips" in done.stdout and "1 rejected" in done.stdout
    with open(out / "pack_report.csv") as stream:
        (line,) = csv.DictReader(stream)
    assert "dog/3.wav" in line["reason"]


@pytest.mark.parametrize("one, two", [("Dog", "dog"), ("caf\u00e9", "cafe\u0301")])
def test_names_that_look_alike_are_refused(tmp_path: Path, one: str, two: str) -> None:
    """Half of a class would be taught to be none of it."""
    assert one != two
    write_sound(tmp_path / one / "1.wav")
    write_sound(tmp_path / two / "2.wav")
    with pytest.raises(ShardError, match="differ only in case, blanks or Unicode"):
        read_class_folders(tmp_path)


def test_what_is_no_class_folder_is_told_by_name(tmp_path: Path) -> None:
    """A class without examples, or the wrong folder, would surface in training."""
    with pytest.raises(ShardError, match="no such folder"):
        read_class_folders(tmp_path / "nowhere")
    write_sound(tmp_path / "1.wav")
    with pytest.raises(ShardError, match="no class folders in it"):
        read_class_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match="empty: no audio in this class folder"):
        read_class_folders(tmp_path)
    (tmp_path / "empty").rmdir()
    write_sound(tmp_path / "bell\nring" / "1.wav")
    with pytest.raises(ShardError, match="rename the folder"):
        read_class_folders(tmp_path)


def test_names_are_in_normal_form_and_may_be_numbers(tmp_path: Path) -> None:
    """The same folders packed on macOS would be another class list."""
    write_sound(tmp_path / unicodedata.normalize("NFD", "Tür") / "1.wav")
    write_sound(tmp_path / "10" / "2.wav")
    assert [one.name for one in read_class_folders(tmp_path)] == ["10", "Tür"]


def test_folders_named_by_numbers_are_no_indices(run: Run, tmp_path: Path) -> None:
    """Class folder 1 of 0, 1, 5 is the class "1", not the second one."""
    for name in ("1", "5", "10"):
        write_sound(tmp_path / "in" / name / f"of{name}.wav")
    words = ("--folders", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert "packed 3 clips" in run("shards.pack", *words).stdout
