"""Own classes from class folders: the result is a model like any other."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import psl
from psl.adapting.job import adapt
from psl.tagging.rules import read_thresholds
from shards.errors import ShardError
from shards.format.classes import Classes
from tests.conftest import Run
from tests.psl.adapting.sounds_made import RATE, write_sounds, write_tone
from tests.psl.exporting.made import make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "m", "cnn14")


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return write_sounds(tmp_path / "sounds")


def test_the_command_makes_a_model_that_tags_and_adapts_again(
    run: Run, model: Path, sounds: Path, tmp_path: Path
) -> None:
    """The ten minutes of docs/adapting.md, with a bad file among the good."""
    (sounds / "low" / "bad.wav").write_bytes(b"junk")
    soundfile.write(sounds / "mid" / "silent.wav", np.zeros(RATE), RATE)
    shutil.copy(sounds / "low" / "low0.wav", sounds / "low" / "again.wav")
    for seed in range(4):
        write_tone(tmp_path / "street" / f"{seed}.wav", 2000.0, 900 + seed)
    out = tmp_path / "own"

    done = run(
        *("psl.adapting", str(model), "--sounds", str(sounds), "--out", str(out)),
        *("--background", str(tmp_path / "street"), "--seconds", "1"),
    )

    assert done.returncode == 0, done.stderr
    assert "rejected: 2" in done.stdout and "mAP" in done.stdout
    assert "1 sounds are left out: the same as others" in done.stderr
    with open(out / "rejected.csv") as stream:
        reasons = [line["reason"] for line in csv.DictReader(stream)]
    assert len(reasons) == 2 and "silence" in "".join(reasons)
    facts = json.loads((out / "adapt.json").read_text())
    assert [c["num_examples"] for c in facts["classes"]] == [6, 6, 6]
    assert facts["num_background"] == 4 and facts["num_held_out"] == 22
    with open(out / "confusion.csv") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["true", "high", "low", "mid", "(nothing)"]
    assert sum(int(n) for row in rows[1:] for n in row[1:]) == 22
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((out / "cross_validation" / "metrics.json").read_text())
    assert stored["mAP"] == facts["mAP"] and stored["num_clips"] == 22
    assert run("psl.status", str(out)).returncode == 0
    page = tmp_path / "report.html"
    done = run("psl.report", str(out), "--out", str(page))
    assert "1 run, 1 evaluation" in done.stdout and "tone" not in done.stderr
    assert "cross_validation" in page.read_text()
    tagger = psl.load(out, device="cpu")
    assert tagger.classes.names == ("high", "low", "mid")
    default, by_class = read_thresholds(out / "thresholds.json", tagger.classes)
    assert default is not None and set(by_class) == {"high", "low", "mid"}
    again = adapt(out, sounds, out=tmp_path / "again", seconds=1.0)
    assert again.mean_ap is not None and psl.load(again.folder, device="cpu")


def test_three_tones_are_told_apart_on_new_sounds(
    model: Path, sounds: Path, tmp_path: Path
) -> None:
    """The new last layer might not be the one that cross validation measured."""
    made = adapt(model, sounds, out=tmp_path / "own", seconds=1.0, device="cpu")
    tagger = psl.load(made.folder, device="cpu")
    for name, hertz in (("low", 200.0), ("mid", 900.0), ("high", 4000.0)):
        write_tone(tmp_path / "new.wav", hertz, seed=777)
        samples, _ = soundfile.read(tmp_path / "new.wav", dtype="float32")
        probs, _ = tagger(samples[None])
        assert tagger.classes.names[int(probs[0].argmax())] == name
    assert made.mean_ap is not None and made.mean_ap > 0.9


def test_the_result_is_the_same_each_time(
    model: Path, sounds: Path, tmp_path: Path
) -> None:
    """Two people with the same sounds would get different models."""
    for name in ("one", "two"):
        adapt(model, sounds, out=tmp_path / name, seconds=1.0, device="cpu")
    one, two = (
        next((tmp_path / name).rglob("model.safetensors")).read_bytes()
        for name in ("one", "two")
    )
    assert one == two


def test_old_classes_keep_their_probabilities(sounds: Path, tmp_path: Path) -> None:
    """Adding a class would lose what the model knew."""
    classes = Classes(("/m/1", "/m/2"), ("Dog", "Cat"))
    old_model = make_checkpoint(tmp_path / "old", "cnn14", classes=classes)
    adapt(old_model, sounds, out=tmp_path / "own", keep_old_classes=True, device="cpu")
    old, new = (psl.load(path, device="cpu") for path in (old_model, tmp_path / "own"))
    assert new.classes.names == ("Dog", "Cat", "high", "low", "mid")
    samples = np.random.default_rng(0).normal(0, 0.1, (1, RATE)).astype(np.float32)
    np.testing.assert_allclose(new(samples)[0][:, :2], old(samples)[0], atol=1e-6)


def rename(sounds: Path) -> None:
    (sounds / "low").rename(sounds / "lOw")


def copy_to_another_class(sounds: Path) -> None:
    shutil.copy(sounds / "low" / "low0.wav", sounds / "mid" / "x.wav")


def spoil_a_class(sounds: Path) -> None:
    for path in (sounds / "mid").iterdir():
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (copy_to_another_class, {}, "low0.wav .*x.wav .* are the same sound"),
        (
            spoil_a_class,
            {},
            r"'mid': no sound of it can be used \(first of all: \S+mid0.wav: empty",
        ),
        (rename, {"keep_old_classes": True}, "class 'lOw' is one of the model's"),
        (
            lambda sounds: None,
            {"keep_old_classes": True, "finetune": True},
            "would unlearn",
        ),
        (lambda sounds: None, {"seconds": 0.1}, "seconds = 0.1; expected 0.5 to 10"),
        (lambda sounds: None, {"seconds": float("nan")}, "seconds = nan"),
        (lambda sounds: None, {"background": "nowhere"}, "no such file or folder"),
        (lambda sounds: None, {"labelled": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    model: Path,
    sounds: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: dict[str, object],
    message: str,
) -> None:
    """Half a model under its final name would be used."""
    spoil(sounds)
    with pytest.raises((ShardError, ValueError), match=message):
        adapt(model, sounds, out=tmp_path / "own", **words)  # type: ignore[arg-type]
    assert not (tmp_path / "own").exists()


def test_what_is_not_there_is_said_before_torch_is_loaded(
    run: Run, model: Path, sounds: Path, tmp_path: Path
) -> None:
    """Who mistypes a path waits for seconds each time."""
    program = (
        "import sys; from psl.adapting.command import main\n"
        "try: main(sys.argv[1:])\n"
        "except ValueError as error: print(error, 'torch' in sys.modules)"
    )
    out = str(tmp_path / "own")
    for words, message in (
        ([str(model), "--sounds", "nowhere"], "nowhere: no such file or folder"),
        (["mn44", "--sounds", str(sounds)], "near it: mn40, mn04"),
        (["runs/nowhere", "--sounds", str(sounds)], "runs/nowhere: no such file"),
        ([str(model), "--sounds", str(sounds), "--out", str(sounds)], "exists"),
    ):
        words = words if "--out" in words else [*words, "--out", out]
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True
        )
        assert message in done.stdout and done.stdout.endswith("False\n"), done


def test_a_folder_that_exists_is_not_replaced(
    model: Path, sounds: Path, tmp_path: Path
) -> None:
    """--out runs/student, the model itself, would be lost."""
    with pytest.raises(ValueError, match="exists; choose another folder"):
        adapt(model, sounds, out=model)


def test_one_example_a_class_is_allowed_and_not_measured(
    model: Path, tmp_path: Path
) -> None:
    """A first try with one sound each must not look perfect."""
    write_sounds(tmp_path / "few", number=1)
    made = adapt(model, tmp_path / "few", out=tmp_path / "own", device="cpu")
    assert made.mean_ap is None and made.ap == {}
    assert psl.load(made.folder, device="cpu").classes.names == ("high", "low", "mid")


def test_a_table_of_labelled_windows_is_read_back(
    model: Path, sounds: Path, tmp_path: Path
) -> None:
    """What psl suggest asked for would have to be cut by hand."""
    write_tone(tmp_path / "long.wav", 2000.0, 5, seconds=5.0)
    table = tmp_path / "todo.csv"
    head = "file,start,end,label,score\n"
    table.write_text(f"{head}long.wav,0,1,hum,1\nlong.wav,2,3,-,1\nlong.wav,4,5,,1\n")
    made = adapt(model, sounds, labelled=table, out=tmp_path / "own", device="cpu")
    facts = json.loads((made.folder / "adapt.json").read_text())
    assert [c["name"] for c in facts["classes"]] == ["high", "hum", "low", "mid"]
    assert [c["num_examples"] for c in facts["classes"]] == [6, 1, 6, 6]
    assert facts["num_background"] == 1
    for row, message in (
        ("long.wav,3,2,hum,1", "line 2: from '3' to '2'"),
        ("gone.wav,0,1,hum,1", "line 2: 'gone.wav': no such file"),
        ("long.wav,0,1,hum,1\nlong.wav,0,1,dog,1", "'hum' in line 2"),
        ("long.wav,0,1,,1", "none of its 1 rows has a label"),
    ):
        table.write_text(f"{head}{row}\n")
        with pytest.raises((ShardError, ValueError), match=message):
            adapt(model, labelled=table, out=tmp_path / "other")


def test_all_layers_are_trained_by_the_usual_loop(
    run: Run, model: Path, sounds: Path, tmp_path: Path
) -> None:
    """--finetune would leave the frozen model, or a folder that nothing loads."""
    out = tmp_path / "run"
    done = run(
        *("psl.adapting", str(model), "--sounds", str(sounds), "--out", str(out)),
        *("--finetune", "--epochs", "1", "--seconds", "1", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    heads, tuned = (psl.load(p, device="cpu") for p in (out / "heads", out))
    assert tuned.classes == heads.classes
    assert tuned.fingerprint() != heads.fingerprint()
    assert json.loads((out / "status.json").read_text())["state"] == "done"
