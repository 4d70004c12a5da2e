"""Labels calibrated on incomplete weak labels, afterwards and while they are made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from psl import calibrate, label, train
from psl.labelling.calibration import (
    NUM_VALUES,
    Steps,
    calibrated,
    fit_isotonic,
    fit_platt,
    fit_prior,
    logits_of,
)
from psl.labelling.store import write_labels
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import open_index, write_index
from shards.verify import verify
from tests.conftest import Run, write_source
from tests.learning import folder_bytes, tiny_config


def counted(probs: np.ndarray) -> np.ndarray:
    """[V] how often each float16 value occurs."""
    return np.bincount(probs.astype(np.float16).view(np.uint16), minlength=NUM_VALUES)


def test_the_fit_is_that_of_a_general_optimizer() -> None:
    """A fit that stops early would give a whole class wrong labels."""
    rng = np.random.default_rng(0)
    yes, no = 1 / (1 + np.exp(-rng.normal([[-3], [-6]], 1.5, (2, 300))))
    line = fit_platt(counted(yes), counted(no))
    x = logits_of(np.concatenate([yes, no]))
    t = np.repeat([1.0, 0.0], 300)

    def loss(line: np.ndarray) -> float:
        z = line[0] * x + line[1]
        prior = (line[0] - 1) ** 2 / 2 + line[1] ** 2 / 50
        return float((np.logaddexp(0, z) - t * z).sum() + prior)

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7})
    assert (line.a, line.b) == pytest.approx(best.x, abs=1e-4)
    assert line.b > 3  # the shy teacher is heard


def test_a_line_never_falls_and_needs_both_answers() -> None:
    """Falling, it would turn the teacher's order; unbounded, give 0 and 1."""
    high, low = np.full(20, 0.9), np.full(60, 0.1)
    turned = fit_platt(counted(low), counted(high))
    # 60 of 80, drawn to 0 by a prior of standard deviation 5
    assert turned.a == 0
    assert turned.b == pytest.approx(np.log(3), abs=0.01)
    for yes, no in ((high, []), ([], low), (np.zeros(5), np.zeros(9)), ([], [])):
        found = fit_platt(counted(np.array(yes)), counted(np.array(no)))
        assert (found.a, found.b, found.how) == (1, 0, "kept")
    apart = fit_platt(counted(high[:1]), counted(low))  # separable
    assert 0 < apart.a < 5 and abs(apart.b) < 10


def test_a_prior_becomes_the_mean_of_the_scores() -> None:
    """A class would be as rare as the teacher is shy."""
    scores = np.array([0.01, 0.02, 0.3, 0.0])
    line = fit_prior(counted(scores), 0.25)
    made = calibrated(scores[:, None], np.array([line.a]), np.array([line.b]))
    assert made.mean() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_steps_are_those_of_scikit_learn(seed: int) -> None:
    """A class would be taught values that no clip of it supports."""
    rng = np.random.default_rng(seed)
    size = (2, 3, 40, 400)[seed % 4]
    probs = rng.choice([0, 0.01, 0.02, 0.5, 1], size) if seed == 4 else rng.random(size)
    x = logits_of(probs)
    truth = rng.random(size) < probs * 0.7
    truth[:2] = [True, False]
    steps = fit_isotonic(counted(probs[truth]), counted(probs[~truth]))
    oracle = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, truth)
    asked = np.concatenate([probs, rng.random(200), [0, 1]])
    assert isinstance(steps, Steps)
    np.testing.assert_allclose(
        steps.at(asked), oracle.predict(logits_of(asked)), atol=1e-9
    )
    assert len(steps.probs) <= len(np.unique(x))


def test_isotonic_steps_need_both_answers_and_keep_what_is_no_probability() -> None:
    """Every chunk would get 0 or 1; and NaN of a teacher would pass for a label."""
    for yes, no in (([0.5, 0.9], []), ([], [0.1, 0.2]), ([0.5], [0.5]), ([], [])):
        found = fit_isotonic(counted(np.array(yes)), counted(np.array(no)))
        assert found.how == "kept"
    steps = fit_isotonic(counted(np.array([0.9])), counted(np.array([0.1])))
    assert isinstance(steps, Steps)
    made = steps.at(np.array([0.05, 0.1, 0.5, 0.9, 1, np.nan, 1.5, -0.1]))
    expected = [0, 0, 0.5, 1, 1, np.nan, 1.5, -0.1]
    np.testing.assert_allclose(made, expected, atol=1e-3)


def test_classes_that_are_kept_keep_their_bits() -> None:
    """0 would become 2^-25; and NaN of a teacher would pass for a label."""
    probs = np.array([[0, 0.1, 1], [np.nan, 1.5, 0.5]], np.float32)
    made = calibrated(probs, np.array([1, 1, 2.0]), np.array([0, 0, 1.0]))
    assert made[0].tolist()[:2] == [0, np.float16(0.1)]
    assert np.isnan(made[1, 0]) and made[1, 1] == 1.5
    assert made[1, 2] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Six clips of 1.3 s in two shards; not to be changed."""
    folder = tmp_path_factory.mktemp("audio")
    source = write_source(folder / "s", num_clips=6, seconds=1.3)
    words = source.pack_arguments(folder / "packed")
    result = run("shards.pack", *words, "--clips-per-shard", "3")
    assert result.returncode == 0, result.stderr
    return folder / "packed"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, audio: Path) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train.main(tiny_config(folder, audio, "epochs=1", "global_batch_size=2"))
    return folder / "run"


def label_words(teacher: Path, audio: Path, out: Path) -> list[str]:
    named = [f"teacher={teacher}", f"audio={audio}", f"out={out}"]
    return [*named, "chunk_seconds=0.5", "batch_size=4"]


def calibrate_words(labels: Path, audio: Path, out: Path) -> list[str]:
    return [f"labels={labels}", f"audio={audio}", f"out={out}"]


def test_calibrating_on_the_fly_gives_the_labels_of_a_second_pass(
    tmp_path: Path, teacher: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ways would make two label sets; a job could go on with another fit."""
    label.main(label_words(teacher, audio, tmp_path / "raw"))
    # the little-trained teacher scores all clips alike, which platt would keep
    mids = open_index(audio, kind="audio").classes.mids
    lines = ["mid,prior", *(f"{mid},0.2" for mid in mids)]
    (tmp_path / "priors.csv").write_text("\n".join(lines))
    words = calibrate_words(tmp_path / "raw", audio, tmp_path / "fit")
    words += ["method=prior", f"priors={tmp_path}/priors.csv"]
    calibrate.main(words)
    verify(tmp_path / "fit", audio=audio)
    direct = label_words(teacher, audio, tmp_path / "direct")
    label.main([*direct, f"calibration={tmp_path}/fit"])
    found, expected = folder_bytes(tmp_path / "direct"), folder_bytes(tmp_path / "fit")
    raw = folder_bytes(tmp_path / "raw")
    for name in ("000000.tar", "000001.tar", "calibration.json", "clips.npz"):
        assert found[name] == expected[name]
    assert raw["000000.tar"] != found["000000.tar"]
    for name in ("direct", "fit"):
        made = json.loads((tmp_path / name / "made.json").read_text())
        assert made["calibration"]["file"] == "calibration.json"
        provenance = open_index(tmp_path / name, kind="labels").provenances[0]
        assert provenance["calibration"]["method"] == "prior"
    calibrate.main(words)
    assert "already there" in capsys.readouterr().out
    with pytest.raises(ShardError, match="made with calibration = "):
        label.main(direct)
    with pytest.raises(ShardError, match="is calibrated already"):
        calibrate.main(calibrate_words(tmp_path / "fit", audio, tmp_path / "x"))
    with pytest.raises(ShardError, match="choose another folder"):
        calibrate.main(calibrate_words(tmp_path / "raw", audio, tmp_path / "raw"))
    for extra, message in (
        ("chunk_seconds=0.25", "chunk_seconds = 0.5, but these are made with 0.25"),
        ("context_seconds=1", "context_seconds = None, but these are made with 1.0"),
        ("fill=zeros fill_seconds=1", "fill = None, but these are made with 'zeros'"),
        (f"teacher=[{teacher},{teacher}]", "teacher_sha256 = '[0-9a-f]{64}', but"),
    ):
        other = label_words(teacher, audio, tmp_path / "x")
        names = {word.partition("=")[0] for word in extra.split()}
        other = [word for word in other if word.partition("=")[0] not in names]
        with pytest.raises(ValueError, match=message):
            label.main([*other, *extra.split(), f"calibration={tmp_path}/fit"])
    label.main([*label_words(teacher, audio, tmp_path / "k"), "top_k=2"])
    with pytest.raises(ShardError, match="label without top_k"):
        calibrate.main(calibrate_words(tmp_path / "k", audio, tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_stored_labels_are_the_lines_of_the_file(tmp_path: Path, audio: Path) -> None:
    """The file says what was done to the labels; others compute with it."""
    index = open_index(audio, kind="audio")
    rng = np.random.default_rng(1)
    size = (3, len(index.classes))
    probs = {
        index.key(r): rng.random(size).astype(np.float16) for r in range(len(index))
    }
    write_labels(tmp_path / "own", audio, probs, chunk_seconds=0.5)
    calibrate.main(calibrate_words(tmp_path / "own", audio, tmp_path / "out"))
    rows = json.loads((tmp_path / "out/calibration.json").read_text())["classes"]
    assert [row["mid"] for row in rows] == list(index.classes.mids)
    assert [row["how"] for row in rows] == ["platt"] * len(rows)
    a, b = (np.array([row[name] for row in rows]) for name in "ab")
    reader = MemberReader(open_index(tmp_path / "out", kind="labels"))
    for row in range(len(index)):
        p = probs[index.key(row)].astype(np.float64)
        expected = 1 / (1 + np.exp(-(a * np.log(p / (1 - p)) + b)))
        np.testing.assert_allclose(reader.labels(row), expected, atol=1e-3)
    steps_out = tmp_path / "steps"
    named = calibrate_words(tmp_path / "own", audio, steps_out)
    calibrate.main([*named, "method=isotonic"])
    for c, row in enumerate(
        json.loads((steps_out / "calibration.json").read_text())["classes"]
    ):
        assert row["how"] == "isotonic" and "a" not in row
        known, values = np.array(row["points"]).T
        reader = MemberReader(open_index(steps_out, kind="labels"))
        for number in range(len(index)):
            p = probs[index.key(number)][:, c].astype(np.float64)
            asked, points = (np.log(x / (1 - x)) for x in (p, known))
            expected = np.interp(asked, points, values)
            np.testing.assert_allclose(reader.labels(number)[:, c], expected, atol=1e-3)
    positives = np.bincount(index.table.label, minlength=len(rows))
    assert [row["positives"] for row in rows] == positives.tolist()
    assert all(row["positives"] + row["negatives"] == len(index) for row in rows)


def _a_is(value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda found: found["classes"][0].update(a=value)


def _points_are(value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda found: found["classes"][0].update(points=value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda found: found["classes"].pop(),
            r"1 missing .*; calibrate labels",
        ),
        (
            lambda found: found["classes"].reverse(),
            "in another order: .*; calibrate labels",
        ),
        (lambda found: found.pop("classes"), "has no list of classes"),
        (lambda found: found.update(calibration_version=9), "not a calibration of"),
        (lambda found: found.update(fitted_to=[1]), "fitted_to is no object"),
        (_a_is(-1), "a = -1, expected a finite number from 0"),
        (_a_is(True), "a = True, expected a finite number from 0"),
        (_a_is(float("nan")), "not JSON as expected"),
        (_points_are([[0.5, 0.1], [0.5, 0.2]]), "expected pairs in .0, 1. whose first"),
        (_points_are([[0.1, 0.2], [0.5, 0.1]]), "whose second never fall"),
        (_points_are([[0.1, 0.2], [0.5, 1.1]]), "expected pairs in"),
        (_points_are([[0.1, 0.2, 0.3]]), "expected pairs in"),
        (_points_are([[10**400, 0.2]]), "expected pairs in"),
        (_points_are([]), "expected pairs in"),
        (_points_are("steps"), "expected pairs in"),
    ],
)
def test_a_damaged_calibration_is_refused_before_labelling(
    tmp_path: Path, teacher: Path, audio: Path, change: Callable[..., Any], words: str
) -> None:
    """Another class's line would be applied without a word."""
    rows = [
        {"mid": mid, "a": 1.0, "b": 0.0}
        for mid in open_index(audio, kind="audio").classes.mids
    ]
    facts: dict[str, Any] = {"calibration_version": 1, "method": "x", "classes": rows}
    change(facts)
    (tmp_path / "c.json").write_text(json.dumps(facts))
    named = f"calibration={tmp_path}/c.json"
    with pytest.raises(ShardError, match=words):
        label.main([*label_words(teacher, audio, tmp_path / "out"), named])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mid,prior\n/m/x,0.5\n", "csv:2: mid '/m/x' is not of the audio's classes"),
        ("mid,share\n", "expected columns mid and prior"),
        ("mid,prior\n", "no prior for"),
        ("mid,prior\nFIRST,1\n", "csv:2: prior '1', expected a share"),
        ("mid,prior\nFIRST\n", "csv:2: prior None, expected a share"),
        ("mid,prior\nFIRST,nan\n", "csv:2: prior 'nan', expected a share"),
        ("mid,prior\nFIRST,.1\nFIRST,.1\n", "is repeated"),
    ],
)
def test_wrong_priors_name_their_line(
    tmp_path: Path, audio: Path, text: str, words: str
) -> None:
    """A class without its prior would keep a shy teacher's values."""
    index = open_index(audio, kind="audio")
    half = np.full((3, len(index.classes)), 0.5)
    probs = {index.key(row): half for row in range(len(index))}
    write_labels(tmp_path / "own", audio, probs, chunk_seconds=0.5)
    path = tmp_path / "priors.csv"
    path.write_text(text.replace("FIRST", index.classes.mids[0]))
    named = calibrate_words(tmp_path / "own", audio, tmp_path / "out")
    with pytest.raises(ShardError, match=words):
        calibrate.main([*named, "method=prior", f"priors={path}"])
    with pytest.raises(ValueError, match="expected priors with method=prior"):
        calibrate.main([*named, f"priors={path}"])
    assert not (tmp_path / "out").exists()


def test_audio_without_weak_labels_or_of_another_packing_is_refused(
    tmp_path: Path, audio: Path
) -> None:
    """A fit to nothing would say that no clip has any class."""
    index = open_index(audio, kind="audio")
    empty = replace(
        index.table,
        label=index.table.label[:0],
        label_start=0 * index.table.label_start,
    )
    folder = tmp_path / "bare"
    shutil.copytree(audio, folder)
    write_index(folder, replace(index, table=empty))
    half = np.full((3, len(index.classes)), 0.5)
    probs = {index.key(row): half for row in range(len(index))}
    write_labels(tmp_path / "own", folder, probs, chunk_seconds=0.5)
    with pytest.raises(ShardError, match="has no weak labels to fit; pack it"):
        calibrate.main(calibrate_words(tmp_path / "own", folder, tmp_path / "out"))
    with pytest.raises(ShardError, match="same keys, other content"):
        calibrate.main(calibrate_words(tmp_path / "own", audio, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
