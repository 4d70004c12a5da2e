"""Intervals, coverage, other labels and stored scores, against independent values."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    recall_score,
    roc_auc_score,
)

from psl import evaluate
from psl.evaluation.bootstrap import draws, interval, resample
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.measured import Measured, measure
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.official import cover
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.stored import StoredScores, read_scores, write_scores
from shards.errors import ShardError
from shards.format.index import open_index


def made(
    seed: int, *, num_clips: int = 60, levels: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Labels [R, 5] and scores that know something of them, with ties."""
    rng = np.random.default_rng(seed)
    targets = rng.random((num_clips, 5)) < (0.1, 0.2, 0.3, 0.5, 0.2)
    targets[0], targets[1] = True, False
    scores = np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1)
    return targets, (np.round(scores * levels) / levels).astype(np.float32)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([1, 3, 1000]))
def test_lwlrap_is_scikit_learn_s_weighted_by_labels(seed: int, levels: int) -> None:
    """A figure beside DCASE's would be another measure's."""
    targets, scores = made(seed, levels=levels)
    expected = label_ranking_average_precision_score(
        targets, scores, sample_weight=targets.sum(axis=1)
    )
    assert evaluate_scores(targets, scores).lwlrap == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [4, 1000])
def test_a_resample_has_the_metrics_of_the_clips_that_it_repeats(levels: int) -> None:
    """Intervals would be those of another measure, wherever scores tie."""
    targets, scores = made(1, levels=levels)
    targets[:, 1] = False
    targets[7, 1] = True  # a class that many resamples lack
    found = resample(targets, scores, num_resamples=30, seed=3)
    (counts,) = draws(len(targets), 30, 3)
    assert (counts.sum(axis=0) == len(targets)).all()
    lacking = 0
    for number in range(30):
        rows = np.repeat(np.arange(len(targets)), counts[:, number].astype(int))
        true, score = targets[rows], scores[rows]
        has = true.any(axis=0)
        lacking += int(not has.all())
        assert np.isnan(found.ap[number, ~has]).all()
        expected = average_precision_score(true[:, has], score[:, has], average=None)
        np.testing.assert_allclose(found.ap[number, has], expected, atol=1e-6)
        area = roc_auc_score(true[:, has], score[:, has], average=None)
        np.testing.assert_allclose(found.auc[number, has], area, atol=1e-6)
        share = recall_score(true[:, has], score[:, has] >= 0.2, average=None)
        np.testing.assert_allclose(found.recall[number, has], share, atol=1e-6)
        ranked = label_ranking_average_precision_score(
            true, score, sample_weight=true.sum(axis=1)
        )
        assert found.lwlrap[number] == pytest.approx(ranked)
        scalars = found.scalars()
        assert scalars["mAP"][number] == pytest.approx(expected.mean(), abs=1e-6)
    assert 0 < lacking < 30


def test_resamples_depend_on_the_seed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs of one command would print two intervals."""
    targets, scores = made(2)
    one = resample(targets, scores, num_resamples=20, seed=0)
    monkeypatch.setattr("psl.evaluation.bootstrap._COUNTS_AT_A_TIME", 60 * 7)
    two = resample(targets, scores, num_resamples=20, seed=0)
    np.testing.assert_array_equal(one.ap, two.ap)
    other = resample(targets, scores, num_resamples=20, seed=1)
    assert (one.scalars()["mAP"] != other.scalars()["mAP"]).any()


def test_an_interval_is_around_what_was_measured() -> None:
    """Repeated clips flatter AP: the interval could lie beside the value itself."""
    resampled = np.arange(101) / 100 + 0.3
    low, high = interval(0.5, resampled, bounds=(-9, 9)) or (0, 0)
    assert (low, high) == (pytest.approx(0.5 - 0.475), pytest.approx(0.5 + 0.475))
    assert interval(0.5, resampled) == (pytest.approx(0.025), pytest.approx(0.975))
    assert interval(0.9, resampled) == (pytest.approx(0.425), 1.0)
    mostly_nan = np.where(np.arange(101) < 60, np.nan, 0.5)
    assert interval(0.5, mostly_nan) is None


def test_most_intervals_hold_the_value_that_other_clips_give() -> None:
    """95 % would be a word. 60 sets of 200 clips of one kind; seeds are fixed."""
    values, inside = [], 0
    sets = [made(100 + number, num_clips=200) for number in range(60)]
    values = [evaluate_scores(*one).mean_ap for one in sets]
    for (targets, scores), value in zip(sets, values, strict=True):
        found = resample(targets, scores, num_resamples=200, seed=0)
        low, high = interval(value, found.scalars()["mAP"]) or (1, 0)
        inside += int(low <= np.mean(values) <= high)
    assert 53 <= inside <= 60


def config_for(**more: Any) -> Any:
    """A configuration of an evaluation of nothing."""
    return EvaluateConfig(checkpoint="c", audio="a", out="o", **more)


def measured(
    metrics: Metrics, targets: np.ndarray, scores: np.ndarray, config: EvaluateConfig
) -> Measured:
    """As psl.evaluate with ``config`` does."""
    number, seed = config.bootstrap, config.bootstrap_seed
    return measure(metrics, targets, scores, num_resamples=number, seed=seed)


def test_one_resample_is_refused() -> None:
    """Its interval would have no width."""
    with pytest.raises(ValueError, match="one resample has no interval"):
        EvaluateConfig(checkpoint="c", audio="a", out="o", bootstrap=1)


def test_one_clip_and_one_positive_have_no_interval() -> None:
    """A width of 0 would say that nothing is more certain."""
    targets, scores = np.array([[1, 0]]), np.array([[0.9, 0.1]])
    alone = measured(evaluate_scores(targets, scores), targets, scores, config_for())
    summary = alone.summary()
    assert set(summary["intervals"].values()) == {None}
    targets, scores = made(4)
    targets[:, 2] = False
    targets[5, 2] = True
    few = measured(evaluate_scores(targets, scores), targets, scores, config_for())
    assert np.isnan(few.ap_interval[2]).all()
    assert not np.isnan(few.ap_interval[[0, 1, 3]]).any()
    none = config_for(bootstrap=0)
    assert "intervals" not in measured(few.metrics, targets, scores, none).summary()
    json.dumps(few.summary(), allow_nan=False)


KEYS = [b"b0RFKhbpFJA_30000", b"--4gqARaEJE_0", b"clip_7_0"]


@pytest.mark.parametrize(
    ("text", "listed", "present", "unlisted"),
    [
        (
            "# Segments csv created Sun Mar  5 10:54:31 2017\n"
            "# num_ytids=3, num_segs=3\n# YTID, start_seconds, end_seconds, labels\n"
            'b0RFKhbpFJA, 30.000, 40.000, "/m/a,/m/b"\n--4gqARaEJE, 0.000, 10.000, '
            '"/m/a"\nother, 0.000, 10.000, "/m/a"\n',
            *(3, 2, 1),
        ),
        ('b0RFKhbpFJA, 0.000, 10.000, "/m/a"\nclip_7, 0, 10, "/m/a"\n', 2, 1, 2),
        ("key\nb0RFKhbpFJA_30000\n\nclip_7\nunknown\n", 3, 2, 1),
        (
            "".join(
                hashlib.sha256(name).hexdigest() + "\n"
                for name in (b"--4gqARaEJE", b"b0RFKhbpFJA_30000", b"gone")
            ),
            *(3, 2, 1),
        ),
        ("filename\nsub/clip_7.wav\n--4gqARaEJE.flac\ngone.wav\n", 3, 2, 1),
        (
            hashlib.sha256(b"--4gqARaEJE").hexdigest().upper() + "\nclip_7\n",
            *(2, 2, 1),
        ),
        ("\ufeffclip_7\r\n--4gqARaEJE\r\n", 2, 2, 1),
    ],
)
def test_an_official_list_says_what_is_there(
    tmp_path: Path, text: str, listed: int, present: int, unlisted: int
) -> None:
    """Missing clips move published results by up to 5 %, unseen."""
    path = tmp_path / "official.csv"
    path.write_text(text)
    found = cover(path, KEYS)
    numbers = (found.listed, found.present, found.unlisted)
    assert numbers == (listed, present, unlisted)
    assert found.summary("o")["share"] == present / listed


def test_clips_named_by_hashes_are_found_by_name(tmp_path: Path) -> None:
    """A set whose files are named by their content would be taken for hashed ids."""
    path, name = tmp_path / "official.csv", hashlib.sha256(b"sound").hexdigest()
    path.write_text(f"{name}\n")
    assert cover(path, [f"{name}_0".encode()]).present == 1


def test_a_missing_clip_is_named(tmp_path: Path) -> None:
    """A header that nobody knows would look like one lost clip."""
    path = tmp_path / "official.csv"
    path.write_text("video_id\nclip_7\n")
    assert cover(path, KEYS).missing == "video_id"
    path.write_text("clip_7\n")
    assert cover(path, KEYS).missing is None


def test_a_list_in_another_encoding_says_what_to_do(tmp_path: Path) -> None:
    """Excel's Unicode text is UTF-16; the message would be Python's."""
    path = tmp_path / "official.csv"
    path.write_bytes("clip_7\n".encode("utf-16"))
    with pytest.raises(ShardError, match="official.csv: .*save it as text in UTF-8"):
        cover(path, KEYS)


def test_the_fingerprint_is_that_of_the_keys_in_order(tmp_path: Path) -> None:
    """Two sets of clips could not be told apart, or one in two orders be two."""
    path = tmp_path / "official.csv"
    path.write_text("clip_7\n--4gqARaEJE\n")
    expected = hashlib.sha256(b"--4gqARaEJE_0\nclip_7_0").hexdigest()
    assert cover(path, KEYS).sha256 == expected
    assert cover(path, KEYS[::-1]).sha256 == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "official.csv: no clip; expected a list of ids"),
        ("key\n", "no clip"),
        ("a\nb\na\n", "line 3: 'a' is in line 1 as well"),
        ("a\nb\n", "2 clips such as 'a', none of which is among the 3 evaluated, such"),
        ("0" * 64 + "\n", "1 hashes, none of which"),
        ("clip_7;0;10;/m/a\n", "its columns separated by commas"),
        ("x,nan,1,z\ny,1e999,1,z\n", "none of which is among"),
    ],
)
def test_a_list_that_says_nothing_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    """Coverage of 0 % would be printed as if it meant something."""
    path = tmp_path / "official.csv"
    path.write_text(text)
    with pytest.raises(ShardError, match=message):
        cover(path, KEYS)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ShardError, match="cannot read the official list"):
        cover(path, KEYS)


def test_stored_scores_are_what_they_were(tmp_path: Path) -> None:
    """Comparing runs later, or plotting them elsewhere, would use other scores."""
    targets, scores = made(5, num_clips=3)
    mids = tuple(f"/m/{c}" for c in "abcdé")
    write_scores(tmp_path, StoredScores(np.array(KEYS), mids, targets, scores))
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as theirs:
        np.testing.assert_array_equal(theirs["scores"], scores)
        assert theirs["key"].tolist() == KEYS
        start, label = theirs["label_start"], theirs["label"]
        for row in range(3):
            of_row = label[start[row] : start[row + 1]]
            assert of_row.tolist() == np.flatnonzero(targets[row]).tolist()
    again = read_scores(tmp_path)
    assert again.mids == mids
    np.testing.assert_array_equal(again.targets, targets)


def broken_scores(path: Path, what: str) -> None:
    """A file of scores with something wrong."""
    targets, scores = made(5, num_clips=3)
    key = np.array(KEYS)
    if what == "nan":
        scores[1, 2] = np.nan
    if what == "twice":
        key[1] = key[0]
    stored = StoredScores(key, tuple("abcde"), targets, scores)
    write_scores(path.parent, stored)
    arrays = dict(np.load(path))
    if what == "compressed":
        np.savez_compressed(path, **arrays)
    if what == "pickle":
        np.savez(path, **{**arrays, "key": np.array([{}], object)})
    if what == "label":
        np.savez(path, **{**arrays, "label": arrays["label"] + 5})
    if what == "version":
        np.savez(path, **{**arrays, "version": np.array([9])})
    if what == "no column":
        with zipfile.ZipFile(path, "w"):
            pass
    if what == "short":
        path.write_bytes(path.read_bytes()[:200])
    if what == "gone":
        path.unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "score of clip '--4gqARaEJE_0', class 2 is not finite"),
        ("twice", "a key is in it twice"),
        ("compressed", "is compressed"),
        ("pickle", "not a file of scores"),
        ("label", "arrays do not fit"),
        ("version", r"version \[9\], expected \[1\]"),
        ("no column", "not a file of scores"),
        ("short", "not a file of scores"),
        ("gone", "not found; expected the out folder of psl.evaluate"),
    ],
)
def test_a_file_that_is_no_scores_is_refused_in_a_line(
    tmp_path: Path, what: str, message: str
) -> None:
    """A traceback, a pickle that runs, or a NaN that spreads."""
    path = tmp_path / "scores.npz"
    broken_scores(path, what)
    with pytest.raises(ShardError, match=message) as error:
        read_scores(tmp_path if what == "gone" else path)
    assert str(path) in str(error.value)


def test_an_evaluation_names_its_clips_its_labels_and_how_sure_it_is(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """The commonest complaint of the field: two numbers that are not of one set."""
    official = tmp_path / "official.csv"
    lines = [f'clip{i}, 0.000, 2.000, "/m/low"\n' for i in range(30)]
    official.write_text("".join(lines))
    other = tmp_path / "relabelled.csv"
    rows = [
        f'clip{i}, 0.000, 2.000, "{"/m/mid" if i < 9 else ""}"\n' for i in range(20)
    ]
    other.write_text("".join(rows) + 'elsewhere, 0, 10, "/m/low"\n')
    out = tmp_path / "out"
    words = [f"checkpoint={teacher}", f"audio={dataset}", f"out={out}"]
    words += [f"official={official}", f"relabelled={other}", "bootstrap=200"]
    evaluate.main(words)
    found = json.loads((out / "metrics.json").read_text())
    index = open_index(dataset, kind="audio")
    stored = read_scores(out)
    targets = index.table.weak_targets(np.arange(24), 3)
    expected = average_precision_score(targets, stored.scores, average="macro")
    assert found["mAP"] == pytest.approx(expected, abs=1e-12)
    assert (found["version"], found["labels"]) == (2, str(dataset))
    low, high = found["intervals"]["mAP"]
    assert 0 <= low < found["mAP"] < high <= 1
    assert found["bootstrap"] == {"resamples": 200, "seed": 0, "confidence": 0.95}
    coverage = found["coverage"]
    assert (coverage["listed"], coverage["present"]) == (30, 24)
    keys = sorted(f"clip{i}_0".encode() for i in range(24))
    sha256 = hashlib.sha256(b"\n".join(keys)).hexdigest()
    assert coverage["sha256_of_present"] == found["sha256_of_clips"] == sha256
    place = {key.decode(): row for row, key in enumerate(stored.key.tolist())}
    chosen = [place[f"clip{i}_0"] for i in range(20)]
    column = index.classes.index_of["/m/mid"]
    by_others = average_precision_score(
        [i < 9 for i in range(20)], stored.scores[chosen, column]
    )
    second = found["relabelled"]
    assert second["mAP"] == pytest.approx(by_others)
    assert (second["labels"], second["num_clips"]) == (str(other), 20)
    assert second["clips_elsewhere"] == 1
    with open(out / "per_class.csv", newline="") as stream:
        table = {row["mid"]: row for row in csv.DictReader(stream)}
    mid = table["/m/mid"]
    assert float(mid["ap_low"]) < float(mid["ap"]) < float(mid["ap_high"])
    assert (mid["relabelled_num_positives"], table["/m/low"]["relabelled_ap"]) == (
        "9",
        "",
    )


def test_labels_with_ancestors_are_measured_besides_the_official_ones(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """One number of the two would be taken for the other."""
    ontology = tmp_path / "o.json"
    entries = [("/m/high", ["/m/low"]), ("/m/low", []), ("/m/mid", [])]
    ontology.write_text(json.dumps([{"id": i, "child_ids": c} for i, c in entries]))
    out = tmp_path / "out"
    words = [f"checkpoint={teacher}", f"audio={dataset}", f"out={out}", "bootstrap=0"]
    evaluate.main([*words, f"ontology={ontology}"])
    found, stored = json.loads((out / "metrics.json").read_text()), read_scores(out)
    targets = open_index(dataset, kind="audio").table.weak_targets(np.arange(24), 3)
    plain = average_precision_score(targets, stored.scores, average="macro")
    targets[targets[:, 0] == 1, 2] = 1
    added = average_precision_score(targets, stored.scores, average="macro")
    assert (found["mAP"], found["ontology"]["mAP"]) == pytest.approx((plain, added))
    assert (found["labels"], found["ontology"]["labels"]) == (
        str(dataset),
        str(ontology),
    )
    with open(out / "per_class.csv", newline="") as stream:
        high = next(r for r in csv.DictReader(stream) if r["mid"] == "/m/high")
    assert int(high["ontology_num_positives"]) == targets[:, 2].sum()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('other, 0, 10, "/m/low"\n', "such as 'other_0'; expected clips of"),
        ('clip0, 0, 2, "/m/none"\n', "line 1: label '/m/none' is not in the class"),
        ('clip0, 0, 2, ""\n', "no clip has a label"),
        ("", "no segments; expected rows"),
    ],
)
def test_labels_of_something_else_are_refused_before_scoring(
    teacher: Path, dataset: Path, tmp_path: Path, text: str, message: str
) -> None:
    """A number would be printed that measures nothing."""
    (tmp_path / "other.csv").write_text(text)
    words = [f"checkpoint={teacher}", f"audio={dataset}", f"out={tmp_path}/out"]
    with pytest.raises(ShardError, match=message):
        evaluate.main([*words, f"relabelled={tmp_path}/other.csv"])
    assert not (tmp_path / "out").exists()


def test_a_broken_model_is_named_with_its_first_clip(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN would be ranked, and a number printed."""
    write = ScoreFile.write

    def write_broken(file: ScoreFile, places: np.ndarray, scores: np.ndarray) -> None:
        broken = np.where(np.isin(places, [4, 7]), np.nan, scores[:, 1])
        write(file, places, np.stack([scores[:, 0], broken, scores[:, 2]], axis=1))

    monkeypatch.setattr(ScoreFile, "write", write_broken)
    words = [f"checkpoint={teacher}", f"audio={dataset}", f"out={tmp_path}/out"]
    key = open_index(dataset, kind="audio").key(4)
    with pytest.raises(ValueError, match=f"'{key}' at row 4: .* for 2 of 24 clips"):
        evaluate.main(words)
    assert not (tmp_path / "out").exists()


def test_one_class_and_one_score_for_all_have_numbers_in_json() -> None:
    """A set of one class, or a model that says nothing, would end in NaN."""
    for targets, scores in (
        ([[1], [0], [1]], [[0.9], [0.1], [0.4]]),
        ([[1, 0], [0, 1], [0, 0]], [[0.5, 0.5]] * 3),
    ):
        true, found = np.array(targets), np.array(scores, np.float32)
        summary = measured(evaluate_scores(true, found), true, found, config_for())
        text = json.dumps(summary.summary(), allow_nan=False)
        assert json.loads(text)["mAP"] == pytest.approx(
            average_precision_score(true, found, average="macro")
        )
    for shape in ((0, 3), (3, 0), (3, 2)):
        with pytest.raises(ValueError, match="no class has a positive clip"):
            evaluate_scores(np.zeros(shape), np.zeros(shape))
