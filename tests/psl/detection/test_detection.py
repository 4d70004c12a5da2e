"""Events in time: PSDS and F1 are the published ones, and rules do what they say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psl import events as command
from psl import train
from psl.detection.decode import Rule, decode, fit_rules, median_filter
from psl.detection.events import Events, ScoredClip
from psl.detection.f1 import count_events, count_segments
from psl.detection.psds import PSDS1, PSDS2, psds
from psl.detection.rules_file import read_rules, to_json
from psl.evaluation.frames import frame_edges
from psl.evaluation.true_events import read_events
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from tests.conftest import MIDS
from tests.learning import tiny_config
from tests.psl.detection.psds_oracle import CASES

NO_SEGMENTS = np.zeros((0, 0))
CLASSES = Classes(("/m/a", "/m/b"), ("A", "B"))


def clip(scores: Any, truth: Any, *, seconds: float = 1.0) -> ScoredClip:
    """A clip of frames of so many ``seconds``."""
    table = np.asarray(scores, np.float64)
    edges = np.arange(len(table) + 1) * seconds
    return ScoredClip("x", table, edges, Events.of(truth).joined(), NO_SEGMENTS)


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(CASES.read_text())
    return found


@pytest.mark.parametrize("number", range(20))
def test_psds_is_what_the_reference_says(number: int) -> None:
    """Another number could not be compared with any paper; asked for: 1e-6."""
    case = cases()[number]
    clips = [
        ScoredClip(
            *("x", np.array(c["scores"]), np.array(c["edges"])),
            *(Events.of(c["truth"]), NO_SEGMENTS),
        )
        for c in case["clips"]
    ]
    for name, settings in (("psds1", PSDS1), ("psds2", PSDS2)):
        found = psds(clips, settings)
        assert found.value == pytest.approx(case[name], abs=1e-9)
        np.testing.assert_allclose(found.per_class, case[f"{name}_classes"], atol=1e-9)


def test_the_stored_cases_have_something_to_tell() -> None:
    """Equal zeros would prove nothing."""
    values = {(case["psds1"] > 0.01, case["psds2"] > 0.2) for case in cases()}
    assert (True, True) in values
    assert len({case["psds2"] for case in cases()}) == 20


def test_a_perfect_detector_has_1_and_one_that_says_nothing_0() -> None:
    """The scale is what every reader takes for granted."""
    truth = [(0, 1.0, 3.0), (1, 0.0, 1.0)]
    right = clip([[0, 1], [1, 0], [1, 0], [0, 0]], truth)
    assert psds([right], PSDS1).value == 1.0
    assert psds([right], PSDS2).value == 1.0
    silent = clip(np.full((4, 2), 0.5), truth, seconds=1.0)
    assert psds([silent], PSDS1).value == 0.0


def test_psds_needs_clips_events_and_finite_scores() -> None:
    """NaN would rank anywhere, and nothing can be found where nothing is."""
    with pytest.raises(ValueError, match="no clips"):
        psds([], PSDS1)
    with pytest.raises(ValueError, match="no true events"):
        psds([clip([[0.5]], [])], PSDS1)
    with pytest.raises(ValueError, match="a score is NaN"):
        psds([clip([[np.nan]], [(0, 0, 1)])], PSDS1)


def test_a_class_without_events_does_not_count() -> None:
    """A class list of 527 names would lower every score on ten of them."""
    truth = [(0, 1.0, 2.0)]
    both = psds([clip([[0, 1], [1, 1], [0, 1]], truth)], PSDS1)
    one = psds([clip([[0], [1], [0]], truth)], PSDS1)
    assert both.value == one.value == 1.0
    assert np.isnan(both.per_class[1])


def test_events_count_within_the_collar_and_one_to_one() -> None:
    """Two detections of one event would both be right, or a late end wrong."""
    truth = Events.of([(0, 1.0, 6.0), (1, 1.0, 2.0), (1, 4.0, 5.0)])
    found = Events.of([(0, 1.15, 5.1), (0, 1.2, 6.9), (1, 1.0, 2.25), (1, 3.9, 4.9)])
    counts = count_events([(found, truth)], 2)
    # class 0: a fifth of 5 s is 1 s for the offset, one of two may match; class 1: the
    # first ends 0.25 s late, of 0.2 s
    assert counts.true_positives.tolist() == [1, 1]
    assert counts.false_positives.tolist() == [1, 1]
    assert counts.false_negatives.tolist() == [0, 1]
    assert counts.f1.tolist() == [2 / 3, 0.5]
    assert counts.micro_f1 == pytest.approx(4 / 7)
    assert counts.macro_f1 == pytest.approx((2 / 3 + 0.5) / 2)


def test_matching_finds_the_largest_number_of_pairs() -> None:
    """A greedy pairing takes the only partner of another."""
    truth = Events.of([(0, 1.0, 2.0), (0, 1.3, 2.2)])
    found = Events.of([(0, 1.15, 2.1), (0, 0.9, 1.9)])
    assert count_events([(found, truth)], 1).true_positives.tolist() == [2]


def test_segments_count_whatever_reaches_into_them() -> None:
    """Active from 0.9 to 1.1 s is active in two segments."""
    truth, found = Events.of([(0, 0.9, 1.1)]), Events.of([(0, 1.0, 3.0)])
    counts = count_segments([(found, truth)], [3.5], 1)
    numbers = (counts.true_positives, counts.false_positives, counts.false_negatives)
    assert [int(number[0]) for number in numbers] == [1, 1, 1]
    none = count_segments([(Events.of([]), Events.of([]))], [1.0], 1)
    assert np.isnan(none.f1[0]) and np.isnan(none.macro_f1)


def test_rules_filter_then_cut_then_fill_then_drop() -> None:
    """Another order finds other events."""
    edges = np.arange(9.0)
    scores = np.array([[0.6], [0.1], [0.7], [0.0], [0.0], [0.9], [0.0], [0.0]])
    assert decode(scores, edges, [Rule(0.6)]).onset.tolist() == [0, 2, 5]
    filled = decode(scores, edges, [Rule(0.6, max_gap_seconds=1.0)])
    assert list(zip(filled.onset, filled.offset, strict=True)) == [(0, 3), (5, 6)]
    kept = decode(scores, edges, [Rule(0.6, max_gap_seconds=1.0, min_seconds=2.0)])
    assert list(zip(kept.onset, kept.offset, strict=True)) == [(0, 3)]
    assert len(decode(scores, edges, [Rule(0.65, median_seconds=3.0)])) == 0
    np.testing.assert_array_equal(
        median_filter(np.array([1.0, 0.0, 1.0, 1.0]), np.arange(5.0), 3.0), [1, 1, 1, 1]
    )


def test_a_threshold_is_reached_by_an_equal_probability() -> None:
    """Zero would otherwise find nothing where all is 0."""
    assert len(decode(np.array([[0.5]]), np.array([0.0, 1.0]), [Rule(0.5)])) == 1


def test_rules_are_fitted_class_by_class() -> None:
    """A shy class is never found at the threshold of a loud one."""
    shy = [[0.06, 0.97], [0.12, 0.6], [0.0, 0.6]]
    clips = [clip(shy, [(0, 1.0, 2.0), (1, 0.0, 1.0)])]
    rules = fit_rules(clips, 2, measure="segment", base=Rule())
    assert [rule.threshold for rule in rules] == [0.1, 0.95]
    assert (
        fit_rules([clip(shy, [(1, 0, 1)])], 2, measure="event", base=Rule())[0]
        == Rule()
    )


@pytest.mark.parametrize(
    "row", [(0, 1.0, 1.0), (0, 2.0, 1.0), (0, np.nan, 1.0), (0, 0.0, np.inf)]
)
def test_events_without_length_or_time_are_refused(row: Any) -> None:
    """They would count as true and could never be found."""
    with pytest.raises(ValueError, match="an event of class 0 is from .* expected fin"):
        Events.of([(0, 0.0, 1.0), row])


def test_events_of_a_class_that_touch_are_one() -> None:
    """AudioSet's annotators drew some events twice."""
    events = Events.of(
        [(0, 2, 3), (1, 0, 1), (0, 0, 1), (0, 0.5, 2), (0, 4, 5)]
    ).joined()
    rows = zip(events.label, events.onset, events.offset, strict=True)
    assert list(rows) == [(0, 0, 3), (0, 4, 5), (1, 0, 1)]


def test_windows_that_overlap_stand_for_their_middles() -> None:
    """Each event would be found half a window too early."""
    starts, stops = np.array([0, 2, 4, 6]), np.array([4, 6, 8, 10])
    assert frame_edges(starts, stops).tolist() == [0, 3, 5, 7, 10]
    assert frame_edges(np.array([0, 4, 8]), np.array([4, 8, 9])).tolist() == [
        0,
        4,
        8,
        9,
    ]


def test_rules_are_read_as_they_were_written(tmp_path: Path) -> None:
    """And of classes in another order, by mid."""
    rules = [Rule(0.1, 1.0, 0.2, 0.3), Rule(0.9)]
    path = tmp_path / "rules.json"
    path.write_text(to_json(rules, CLASSES, {}))
    assert read_rules(path, CLASSES) == rules
    assert read_rules(path, Classes(("/m/b",), ("B",))) == rules[1:]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: [], "not rules.json of this version"),
        (lambda c: {**c, "version": 2}, "not rules.json of this version"),
        (lambda c: {**c, "rules": 3}, "damaged: no rules"),
        (lambda c: {**c, "rules": {}}, "no rule for 2 of 2 classes, such as '/m/a'"),
        (lambda c: {**c, "rules": {**c["rules"], "/m/b": 0.5}}, "'/m/b': expected"),
    ],
)
def test_damaged_rules_are_refused(tmp_path: Path, edit: Any, message: str) -> None:
    """Events by half a rule look like events."""
    path = tmp_path / "rules.json"
    content = json.loads(to_json([Rule()] * 2, CLASSES, {}))
    path.write_text(json.dumps(edit(content)))
    with pytest.raises(ShardError, match=f"rules.json: {message}"):
        read_rules(path, CLASSES)


@pytest.mark.parametrize("value", ["0.5", True, -0.1, 1.5, None, [0.5]])
def test_a_threshold_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    """A text compares with no number."""
    path = tmp_path / "rules.json"
    content = json.loads(to_json([Rule()], Classes(("/m/a",), ("A",)), {}))
    content["rules"]["/m/a"]["threshold"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(
        ShardError, match="threshold = .* expected a number from 0 to 1"
    ):
        read_rules(path, Classes(("/m/a",), ("A",)))


def test_true_events_in_desed_s_form_are_read(tmp_path: Path, dataset: Path) -> None:
    """Its files have a suffix, its classes names, and some clips nothing at all."""
    index = open_index(dataset, kind="audio")
    one, two, _ = (index.key(row).rpartition("_")[0] for row in range(3))
    path = tmp_path / "strong.tsv"
    path.write_text(
        "filename\tonset\toffset\tevent_label\n"
        f"{one}.wav\t0.25\t1.0\tTone mid\n{two}.wav\t\t\t\n"
    )
    events = read_events(path, index, max_left_out=0.0)
    assert (events.row.tolist(), events.label.tolist()) == ([0], [1])
    assert (events.start.tolist(), events.stop.tolist()) == ([4000], [16000])
    assert np.flatnonzero(events.covered).tolist() == [0, 1]
    path.write_text(path.read_text().replace("Tone mid", "Tone"))
    with pytest.raises(ShardError, match="not in the class list: 'Tone'"):
        read_events(path, index, max_left_out=0.0)


def test_a_run_finds_events_and_says_how_well(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command of the README, on a small model, both tables and the picture."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    index = open_index(dataset, kind="audio")
    strong = tmp_path / "strong.tsv"
    header = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    rows = [f"{index.key(r)}\t0.0\t1.0\t{MIDS[r % 3]}\n" for r in range(len(index))]
    strong.write_text(header + "".join(rows))
    out = tmp_path / "events"
    words = [f"checkpoint={tmp_path / 'run'}", f"audio={dataset}", f"out={out}"]
    words += [f"strong={strong}", f"fit_audio={dataset}", f"fit_strong={strong}"]
    capsys.readouterr()
    command.main([*words, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((out / "metrics.json").read_text())
    assert said["num_events"] == said["num_clips"] == len(index) == 24
    assert (
        0 <= said["psds1"] <= 1
        and 0 < said["segment_mAP"] <= 1
        and 0 < said["segment_f1_macro"] <= 1
    )
    found = list(csv.DictReader((out / "events.tsv").open(), delimiter="\t"))
    assert len(found) == said["num_found"] > 0
    assert {row["label"] for row in found} <= set(MIDS)
    assert (out / "clip.png").read_bytes().startswith(b"\x89PNG")

    again = tmp_path / "again"
    words = [*words[:2], f"out={again}", f"rules={out / 'rules.json'}", "form=desed"]
    command.main(words)
    lines = (again / "events.tsv").read_text().splitlines()
    assert lines[0] == "filename\tonset\toffset\tevent_label"
    assert len(lines) - 1 == len(found) and ".wav\t" in lines[1]
    assert not (again / "per_class.csv").exists()
