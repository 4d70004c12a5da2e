"""psl.compare: is a difference more than noise, by clips and by seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from psl import compare
from psl.evaluation.bootstrap import draws
from psl.evaluation.comparing import System, difference
from psl.evaluation.stored import StoredScores, read_scores, write_scores
from psl.evaluation.student import student_quantile
from shards.errors import ShardError

MIDS = ("/m/a", "/m/b", "/m/c")


def targets_of(num_clips: int) -> np.ndarray:
    """The labels of clips, [num_clips, 3]."""
    rng = np.random.default_rng(0)
    return rng.random((num_clips, 3)) < 0.25


def write_run(
    folder: Path, *, skill: float, seed: int = 0, num_clips: int = 200, noise: float = 1
) -> str:
    """The evaluation of a run; all runs share the clips' own difficulty."""
    targets = targets_of(num_clips)
    shared = np.random.default_rng(1).normal(size=targets.shape)
    own = np.random.default_rng((2, seed)).normal(size=targets.shape)
    scores = (skill * targets + shared + noise * own).astype(np.float32)
    keys = np.array([f"clip{i:04d}_0".encode() for i in range(num_clips)])
    folder.mkdir(parents=True)
    write_scores(folder, StoredScores(keys, MIDS, targets, scores))
    return str(folder)


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What ``psl.compare --json`` prints."""
    capsys.readouterr()
    compare.main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_two_runs_are_compared_on_the_same_draws_of_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A better model would be called noise, or a luckier one better.

    The oracle repeats the clips of each draw, and asks scikit-learn.
    """
    a = write_run(tmp_path / "a", skill=0.5)
    b = write_run(tmp_path / "b", skill=2.0, noise=0.1)
    found = compared(capsys, a, b, "--bootstrap", "40", "--seed", "5")
    (counts,) = draws(200, 40, 5)
    one, two, true = read_scores(a).scores, read_scores(b).scores, targets_of(200)
    gains = []
    for number in range(40):
        rows = np.repeat(np.arange(200), counts[:, number].astype(int))
        values = [average_precision_score(true[rows], s[rows]) for s in (one, two)]
        gains.append(values[1] - values[0])
    gain = average_precision_score(true, two) - average_precision_score(true, one)
    (said,) = found["differences_from_the_first"]
    assert said["difference"] == pytest.approx(gain)
    assert said["clip_standard_error"] == pytest.approx(np.std(gains, ddof=1), rel=1e-4)
    ends = np.quantile(gains, [0.025, 0.975]) - np.mean(gains) + gain
    assert said["interval"] == pytest.approx(ends.tolist(), abs=1e-6)
    assert said["more_than_noise"] is True and said["seed_standard_error"] is None
    assert found["num_clips"] == 200 and found["systems"][1]["runs"] == [b]


def test_a_run_is_no_better_than_itself_or_than_its_like(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise would be published as progress."""
    a = write_run(tmp_path / "a", skill=1.0, seed=1)
    b = write_run(tmp_path / "b", skill=1.0, seed=2)
    same, other = compared(capsys, a, a, b)["differences_from_the_first"]
    assert (same["difference"], same["clip_standard_error"]) == (0, 0)
    assert not same["more_than_noise"] and not other["more_than_noise"]
    compare.main([a, b])
    text = capsys.readouterr().out
    assert "B - A" in text and "no more than the noise of clips\n" in text
    assert "by seeds unknown: another seed may change the order" in text


def test_a_run_that_is_named_twice_is_no_second_seed(tmp_path: Path) -> None:
    """Its twin would say that seeds make no difference."""
    a = write_run(tmp_path / "a", skill=1.0)
    b = write_run(tmp_path / "b", skill=1.1)
    with pytest.raises(ValueError, match="names a run twice"):
        compare.main([f"{a},{tmp_path}/b/../a/", str(b)])


def test_the_noise_of_seeds_adds_to_that_of_clips() -> None:
    """Three lucky seeds would pass for a better method."""
    rng = np.random.default_rng(0)
    one = np.array([0.30, 0.34, 0.32])
    two = np.array([0.35, 0.37, 0.36, 0.40])
    drawn = rng.normal(0, 0.01, 500)
    first = System(("a",) * 3, one, np.stack([v + drawn for v in one]))
    second = System(("b",) * 4, two, np.stack([v + 2 * drawn for v in two]))
    found = difference(first, second)
    assert found.value == pytest.approx(0.05)
    assert found.clip_error == pytest.approx(drawn.std(ddof=1))
    # Welch's test of the seeds alone, to which the variance by clips is added
    welch = stats.ttest_ind(two, one, equal_var=False)
    seeds = abs(0.05 / welch.statistic)
    assert found.seed_error == pytest.approx(seeds)
    total = math.hypot(seeds, found.clip_error)
    degrees = welch.df * (total / seeds) ** 4
    half = stats.t.ppf(0.975, degrees) * total
    assert (found.low, found.high) == (
        pytest.approx(0.05 - half, abs=1e-6),
        pytest.approx(0.05 + half, abs=1e-6),
    )


@pytest.mark.parametrize("freedom", [1.0, 2.3, 7.0, 150.0, 5e4, math.inf])
def test_the_quantile_of_t_is_scipy_s(freedom: float) -> None:
    """Intervals of few seeds would be too narrow."""
    expected = stats.t.ppf(0.975, freedom)
    assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=1e-4)


def test_several_seeds_are_told_apart_from_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of a paper with three seeds could not be made."""
    a = [write_run(tmp_path / f"a{s}", skill=0.5, seed=s) for s in range(3)]
    b = [write_run(tmp_path / f"b{s}", skill=2.0, seed=s + 9) for s in range(3)]
    found = compared(capsys, ",".join(a), ",".join(b))
    (said,) = found["differences_from_the_first"]
    for system, runs in zip(found["systems"], (a, b), strict=True):
        stored = [read_scores(folder) for folder in runs]
        values = [average_precision_score(s.targets, s.scores) for s in stored]
        assert system["values"] == pytest.approx(values)
        assert system["mean"] == pytest.approx(np.mean(values))
    assert said["seed_standard_error"] > 0 and said["more_than_noise"]
    compare.main([",".join(a), ",".join(b), "--metric", "d_prime"])
    text = capsys.readouterr().out
    assert text.startswith("d_prime, 200 clips, 3 classes, 95 % intervals by 1000")
    assert (
        "mean of 3 runs: " in text
        and ": more than the noise of clips and seeds" in text
    )


def test_clips_in_another_order_are_matched_by_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two packings of the same clips would be compared row by row."""
    a = write_run(tmp_path / "a", skill=1.0)
    stored, order = read_scores(a), np.random.default_rng(0).permutation(200)
    (tmp_path / "b").mkdir()
    moved = StoredScores(
        stored.key[order], MIDS, stored.targets[order], stored.scores[order]
    )
    write_scores(tmp_path / "b", moved)
    found = compared(capsys, a, str(tmp_path / "b"), "--metric", "lwlrap")
    (said,) = found["differences_from_the_first"]
    assert said["interval"] == [0, 0] and not said["more_than_noise"]


def edited(folder: Path, stored: StoredScores, what: str) -> str:
    """The same evaluation with something different."""
    key, mids = stored.key.copy(), stored.mids
    targets, scores = stored.targets.copy(), stored.scores
    if what == "fewer":
        key, targets, scores = key[1:], targets[1:], scores[1:]
    if what == "others":
        key[4] = b"another_0"
    if what == "classes":
        mids = ("/m/a", "/m/c", "/m/b")
    if what == "labels":
        targets[7] = ~targets[7]
    if what == "one clip":
        key, targets, scores = key[:1], np.array([[1, 0, 0]]) > 0, scores[:1]
    if what == "no label":
        targets[:] = False
    folder.mkdir()
    write_scores(folder, StoredScores(key, mids, targets, scores))
    return str(folder)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("fewer", "1 of the 200 clips of .*a are not among its 199, such as 'clip0000"),
        ("others", "1 of the 200 clips of .*a are not among its 200, such as 'clip000"),
        ("classes", "not the classes of .*a: .*; evaluate both on"),
        ("labels", "1 clips have other labels than in .*a, such as 'clip0007_0'"),
    ],
)
def test_evaluations_of_other_clips_are_refused(
    tmp_path: Path, what: str, message: str
) -> None:
    """A difference between two sets would pass for one between two models."""
    a = write_run(tmp_path / "a", skill=1.0)
    b = edited(tmp_path / "b", read_scores(a), what)
    with pytest.raises(ValueError, match=message) as error:
        compare.main([a, b])
    assert str(tmp_path / "b") in str(error.value)


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path: Path) -> None:
    """A traceback, or NaN, would be the answer."""
    a = write_run(tmp_path / "a", skill=1.0)
    for what, message in (("one clip", "one clip; a"), ("no label", "no class has a")):
        b = edited(tmp_path / what, read_scores(a), what)
        with pytest.raises(ValueError, match=message):
            compare.main([b, b])
    with pytest.raises(ValueError, match="expected two systems or more"):
        compare.main([a])
    with pytest.raises(ValueError, match="expected two systems or more"):
        compare.main([a, ","])
    with pytest.raises(ValueError, match="names a run twice"):
        compare.main([f"{a},{a}", a])
    with pytest.raises(ShardError, match="nowhere.*: not found; expected the out"):
        compare.main([a, str(tmp_path / "nowhere")])
    for words in (["--bootstrap", "1"], ["--bootstrap", "x"], ["--metric", "map"]):
        with pytest.raises(SystemExit) as end:
            compare.main([a, a, *words])
        assert end.value.code == 2
