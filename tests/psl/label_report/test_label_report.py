"""psl.label_report on made-up labels: every number by hand or by scikit-learn."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from psl import label_report
from psl.evaluation.true_events import events_in_chunks, read_events
from psl.label_report.clip import view_clip
from psl.label_report.score_counts import (
    ScoreCounts,
    calibration_error,
    rank_precision,
    reliability,
)
from psl.label_report.tally import Block, localise, tally, telling_by_events
from shards.dataset.writer import DatasetBuilder, Row
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import Index, open_index
from shards.format.label_codec import encode_labels
from shards.system.text import markdown, plain
from shards.verify import verify
from tests.conftest import MIDS, RATE, Run, Source

CHUNKING = Chunking(8000, 8000)
HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
PROBS: dict[str, Any] = {
    "clip0_0": [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.1, 0], [0.1, 0.1, 0]],
    "clip1_0": [[0, 0.8, 0.4], [0, 0.1, 0], [0, 0.7, 0], [0, 0.1, 0]],
    "clip2_0": [[0.6, 0, 0.6], [0.1, 0, 0.6], [0.1, 0.45, 0.6], [0.1, 0, 0.6]],
}
"""Labels of 0.5-s chunks, classes low, mid, high; the other 21 clips have 0.01."""
EVENTS = [
    ("clip0_0", 0.0, 0.5, "/m/low"),
    ("clip0_0", 0.5, 1.0, "/m/mid"),  # missing in the weak labels: low
    ("clip1_0", 1.0, 1.5, "/m/mid"),
    ("clip1_0", 0.0, 0.5, "/m/high"),  # missing in the weak labels: mid
    ("clip2_0", 0.0, 2.0, "/m/high"),  # weak labels: low and high
]


def write_labels(folder: Path, audio: Index, probs: dict[str, Any]) -> Path:
    """Labels of 0.5-s chunks as psl.label writes them."""
    builder = DatasetBuilder(
        folder=folder,
        kind="labels",
        classes=audio.classes,
        properties={"chunk_samples": 8000, "hop_samples": 8000, "sample_rate": RATE},
        provenance={"audio_fingerprint": audio.fingerprint},
    )
    assert builder.begin()
    for number, shard in enumerate(audio.shards):
        keys = [
            audio.key(int(row)) for row in np.flatnonzero(audio.table.shard == number)
        ]
        members = [np.array(probs.get(key, np.full((4, 3), 0.01))) for key in keys]
        rows = [
            Row(key, "npy", encode_labels(m), len(m))
            for key, m in zip(keys, members, strict=True)
        ]
        builder.add(shard.name, rows)
    assert builder.publish([shard.name for shard in audio.shards])
    return folder


def write_events(path: Path, events: list[tuple[str, float, float, str]]) -> Path:
    """A CSV in the form of AudioSet-strong."""
    lines = [f"{key}\t{a:.3f}\t{b:.3f}\t{mid}\n" for key, a, b, mid in events]
    path.write_text(HEADER + "".join(lines))
    return path


def make_report(labels: Path, audio: Path, out: Path, *words: str) -> dict[str, Any]:
    """report.json of a run of the command."""
    label_report.main([str(labels), "--audio", str(audio), "--out", str(out), *words])
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def audio(dataset: Path) -> Index:
    """The 24 clips of 2 s; clip i has weak labels i % 3 and i % 2."""
    return open_index(dataset, kind="audio")


@pytest.fixture(scope="module")
def case(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, audio: Index
) -> tuple[Path, dict[str, Any]]:
    """The folder of PROBS and EVENTS, and their report."""
    folder = tmp_path_factory.mktemp("report")
    labels = write_labels(folder / "labels", audio, PROBS)
    strong = write_events(folder / "strong.csv", EVENTS)
    words = ["--strong", str(strong), "--no-pictures"]
    return folder, make_report(labels, dataset, folder / "out", *words)


def test_chunk_ap_is_that_of_hand_made_rankings(case: Any) -> None:
    """Readers would think the teacher better, or the weak labels worse, than it is."""
    ap = case[1]["chunk_ap"]
    assert ap.pop("num_classes") == 3
    assert ap == pytest.approx(
        {
            "pseudo": (1 + (1 / 2 + 2 / 3) / 2 + 1) / 3,
            "weak": (1 / 8 + (1 / 4 + 2 / 12) / 2 + (4 + 5 / 12) / 5) / 3,
            "both": (1 + (1 / 2 + 2 / 5) / 2 + 1) / 3,
            "complete": (1 / 4 + 2 / 8 + 5 / 8) / 3,
            "chance": (1 + 2 + 5) / 36,
        }
    )


def test_missing_weak_labels_that_come_back_are_counted(case: Any) -> None:
    """The paper's claim would be stated with wrong numbers."""
    found = case[1]["recovery"]
    assert (found["true_pairs"], found["missing"]) == (5, 2)
    assert found["weak_without_event"] == 1
    assert found["precision_by_chance"] == 0.4
    expected = {"recovered": 1, "false_alarms": 0, "precision": 1.0, "recall": 0.5}
    assert found["at_threshold"] == {"threshold": 0.5, "f1": 2 / 3, **expected}
    # a label stored as float16 reaches the threshold it was made from
    (point,) = [p for p in found["curve"] if p["threshold"] == 0.4]
    assert (point["recovered"], point["false_alarms"]) == (2, 1)
    assert point["precision"] == pytest.approx(2 / 3)


def test_ancestors_are_added_to_weak_labels_and_to_true_events(
    case: Any, dataset: Path, tmp_path: Path
) -> None:
    """Only one of the two would make every parent class a false alarm, or missing."""
    ontology = tmp_path / "o.json"
    entries = [("/m/high", ["/m/low"]), ("/m/low", []), ("/m/mid", [])]
    ontology.write_text(json.dumps([{"id": i, "child_ids": c} for i, c in entries]))
    folder, before = case
    words = ["--strong", str(folder / "strong.csv"), "--no-pictures"]
    words += ["--ontology", str(ontology)]
    found = make_report(folder / "labels", dataset, tmp_path / "out", *words)
    # clip0 has an event of low, so one of high too; its weak label low implies high
    counts = [report["recovery"]["true_pairs"] for report in (before, found)]
    assert counts == [5, 6]
    assert found["recovery"]["missing"] == 2
    assert found["ontology"] == str(ontology) and before["ontology"] is None


def test_localisation_compares_chunks_of_one_clip(case: Any) -> None:
    """A teacher that knows what, but not when, would look as if it knew both."""
    where = case[1]["localisation"]
    assert where["clip_class_pairs"] == 2
    assert where["present_above_absent"] == pytest.approx((1 + 2 / 3) / 2)
    assert where["mean_label_present"] == pytest.approx(0.8, abs=1e-3)
    assert where["mean_label_absent"] == pytest.approx((0.4 + 1.0) / 6, abs=1e-3)


def test_distribution_and_use_of_the_csv_are_stated(case: Any) -> None:
    """Labels that say nothing, or clips nobody annotated, would pass unnoticed."""
    report = case[1]
    spread = report["distribution"]
    assert spread["labels_per_chunk"]["0.5"] == 9 / 96
    assert spread["chunks_without_label"]["0.5"] == 88 / 96
    assert sum(spread["histogram"]) == spread["num_labels"] == 96 * 3
    events = report["events"]
    assert (events["used"], events["clips"], events["clips_not_in_csv"]) == (5, 3, 21)
    bins = report["calibration"]["bins"]
    assert sum(b["count"] for b in bins) == 3 * 4 * 3
    assert report["calibration"]["share_true"] == pytest.approx(8 / 36)


def test_the_class_table_and_the_summary_say_what_the_json_says(case: Any) -> None:
    """Whoever opens the table would read another class's numbers."""
    out = case[0] / "out"
    with open(out / "per_class.csv", newline="") as stream:
        low, mid, high = csv.DictReader(stream)
    assert (mid["index"], mid["mid"], mid["name"]) == ("1", "/m/mid", "Tone mid")
    assert (low["weak_clips"], mid["true_clips"], high["true_clips"]) == (
        "16",
        "2",
        "2",
    )
    assert (mid["missing_weak_labels"], mid["recovered"]) == ("1", "1")
    assert (high["missing_weak_labels"], high["recovered"]) == ("1", "0")
    assert mid["chunk_ap_pseudo"] == "0.583333"
    summary = (out / "report.md").read_text()
    assert "| **pseudo labels** | 86.1 |" in summary
    assert "| weak labels, copied to every chunk | 40.6 |" in summary
    assert "2 of 5 true (clip, class) pairs have no weak label" in summary
    assert "| 0.5 | 1 | 50.0 | 100.0 | 66.7 |" in summary


def test_all_of_it_agrees_with_scikit_learn_on_random_labels(
    audio: Index, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds for three clips would fail for a whole set read in blocks."""
    monkeypatch.setattr("psl.label_report.tally.BLOCK_VALUES", 100)
    rng = np.random.default_rng(0)
    keys = [audio.key(int(row)) for row in range(24)]
    probs = {key: rng.integers(0, 20, (4, 3)) / 20 for key in keys}
    events = []
    for key in keys:
        for mid in rng.permutation(MIDS)[: rng.integers(1, 3)].tolist():
            a, b = np.sort(rng.integers(0, 2001, 2) / 1000).tolist()
            events.append((key, a, b + 0.001, mid))
    rng.shuffle(events)
    strong = write_events(tmp_path / "strong.csv", events)
    labels = write_labels(tmp_path / "labels", audio, probs)
    words = ["--strong", str(strong), "--no-pictures"]
    report = make_report(labels, dataset, tmp_path / "out", *words)

    truth = {key: np.zeros((4, 3), bool) for key in keys}
    in_clip = {key: np.zeros(3, bool) for key in keys}
    for key, a, b, mid in events:
        b = min(b, 2.0)
        in_clip[key][MIDS.index(mid)] |= a < b
        for k in range(4):
            inside = min(b, k / 2 + 0.5) - max(a, k / 2)
            if a < b and inside > 0 and inside > min(0.25, (b - a) / 2) - 1e-6:
                truth[key][k, MIDS.index(mid)] = True
    weak = {f"clip{i}_0": np.isin([0, 1, 2], [i % 3, i % 2]) for i in range(24)}
    true = np.concatenate([truth[key] for key in keys])
    stored = np.concatenate([np.float16(probs[key]) for key in keys])
    copied = np.concatenate([np.tile(weak[key], (4, 1)) for key in keys])
    both = stored.astype(np.float64) / 2 + copied / 2
    for name, scores in (("pseudo", stored), ("weak", copied), ("both", both)):
        expected = average_precision_score(true, scores, average=None)
        found = [row[f"chunk_ap_{name}"] for row in report["per_class"]]
        assert found == pytest.approx(expected.tolist()), name
    of_clip = np.array([weak[key] for key in keys])
    highest = np.array([np.float16(probs[key]).max(axis=0) for key in keys])
    assert report["weak_agreement"]["mean_ap"]["max"] == pytest.approx(
        average_precision_score(of_clip, highest)
    )
    holds = np.array([in_clip[key] for key in keys])
    said = ~of_clip & (highest >= 0.5)
    point = report["recovery"]["at_threshold"]
    assert report["recovery"]["missing"] == (holds & ~of_clip).sum()
    assert point["recovered"] == (said & holds).sum()
    assert point["false_alarms"] == (said & ~holds).sum()


@pytest.mark.parametrize(
    ("start", "stop", "chunks"),
    [
        (0, 10, [0]),  # a whole chunk
        (9, 13, [1]),  # of 4, 1 and 3: only the half of it counts
        (8, 12, [0, 1]),  # halves count on both sides
        (9, 10, [0]),  # one sample is all there is
        (5, 23, [0, 1, 2]),  # 5, 10 and 3 samples
        (8, 22, [1]),  # 2 samples at either end are fewer than 3
        (20, 26, [2]),  # the last chunk is short, but half
        (26, 27, []),  # after it
    ],
)
def test_an_event_counts_where_enough_of_it_lies(
    start: int, stop: int, chunks: list[int]
) -> None:
    """Truth itself would be shifted by a chunk; chunks of 10 in a clip of 26."""
    event, chunk = events_in_chunks(
        *(np.array([start]), np.array([stop]), np.array([26])),
        chunking=Chunking(10, 10),
        min_samples=3,
    )
    assert chunk.tolist() == chunks
    assert event.tolist() == [0] * len(chunks)


@given(st.data())
def test_events_lie_in_the_same_chunks_as_sample_by_sample(data: Any) -> None:
    """Overlapping chunks and clips of other lengths would get other truth."""
    size = data.draw(st.integers(1, 12))
    chunking = Chunking(size, data.draw(st.integers(1, size)))
    length = data.draw(st.integers(1, 60))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    least = data.draw(st.integers(1, 8))
    one = np.array([start]), np.array([stop]), np.array([length])
    _, found = events_in_chunks(*one, chunking=chunking, min_samples=least)
    expected = []
    for k in range(int(chunking.num_chunks(np.array([length]))[0])):
        first = k * chunking.hop_samples
        inside = len(set(range(first, first + size)) & set(range(start, stop)))
        if inside and (inside >= least or 2 * inside >= stop - start):
            expected.append(k)
    assert found.tolist() == expected


def test_counting_by_value_loses_no_rank() -> None:
    """Average precision of a large set would not be that of its labels."""
    rng = np.random.default_rng(1)
    scores = (rng.random((5000, 4)) ** 4).astype(np.float16)
    scores[:7, 0] = -0.0  # a probability that has a bit more
    true = rng.random((5000, 4)) < 0.05
    counts = ScoreCounts(2, 4)
    for part in (slice(0, 1234), slice(1234, 5000)):
        counts.add(scores[part], true[part].astype(np.uint8))
    expected = average_precision_score(true, np.abs(scores), average=None)
    np.testing.assert_allclose(rank_precision(*counts.counts[::-1]), expected)


def test_calibration_is_that_of_four_labels() -> None:
    """Overconfident labels would be called calibrated."""
    counts = ScoreCounts(2, 1)
    scores = np.array([[0.25], [0.5], [0.75], [0.75]], np.float16)
    counts.add(scores, np.array([[0], [1], [1], [0]], np.uint8))
    curve = reliability(counts.counts[1, 0], counts.counts[0, 0], 4)
    assert curve["count"].tolist() == [0, 1, 1, 2]
    assert curve["mean_score"].tolist()[1:] == [0.25, 0.5, 0.75]
    assert curve["share_true"].tolist()[1:] == [0.0, 1.0, 0.5]
    assert calibration_error(curve) == (0.25 + 0.5 + 2 * 0.25) / 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip0_0,0,1,/m/low\n", r"strong.csv: line 1: no column segment_id"),
        (HEADER + "clip0_0\t0\t1\n", r"strong.csv: line 2: found 'clip0_0\\t0\\t1'"),
        (HEADER + "clip0_0\t0\t1\t/m/low\nclip0_0\t1\t0.5\t/m/low\n", "line 3: found"),
        (HEADER + "clip0_0\tnan\t1\t/m/low\n", "line 2: found"),
        (HEADER + "clip0_0\t0\tinf\t/m/low\n", "line 2: found"),
        (HEADER, "strong.csv: no event; expected events of the clips of"),
        (HEADER + "other_0\t0\t1\t/m/low\n", "segments such as 'other_0'; expected"),
        (
            HEADER + "clip0_0\t0\t1\t/m/low\n" + "clip1_0\t0\t1\t/m/new\n" * 2,
            r"2 events have mids that are not in the class list: '/m/new' \(2\), first "
            r"at line 3; of 3 events .* 2 would be left out.*--max-left-out 0.667",
        ),
        (
            HEADER + "clip0_0\t2.0\t3.0\t/m/low\n",
            "1 events have nothing inside their clip, first at line 2: 2 to 3 s of",
        ),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(
    audio: Index, tmp_path: Path, text: str, message: str
) -> None:
    """Whoever gives another set's events would get a report of nothing."""
    path = tmp_path / "strong.csv"
    path.write_text(text)
    with pytest.raises(ShardError, match=message):
        read_events(path, audio, max_left_out=0.5)


def test_what_cannot_be_used_is_counted_up_to_the_limit(
    audio: Index, tmp_path: Path
) -> None:
    """AudioSet-strong has mids that AudioSet's class list has not; it must be usable,
    with commas as well as tabs.
    """
    path = tmp_path / "strong.csv"
    lines = ["clip0_0,1.5,2.5,/m/low", "clip0_0,0,1,/m/new", "clip1_0,3,4,/m/mid"]
    lines += ["clip2_0,0,0.5,/m/mid", "other_0,0,1,/m/low", "other_0,1,2,/m/low"]
    path.write_text(HEADER.replace("\t", ",") + "\n".join(lines) + "\n")
    events = read_events(path, audio, max_left_out=0.5)
    assert (events.unknown, events.num_outside, events.num_cut) == ({"/m/new": 1}, 1, 1)
    assert (events.num_elsewhere, events.num_segments_elsewhere) == (2, 1)
    by_key = {audio.key(row): i for i, row in enumerate(events.row.tolist())}
    first = by_key["clip0_0"]
    assert (events.start[first], events.stop[first]) == (24000, 32000)
    assert events.label[by_key["clip2_0"]] == 1
    covered = {audio.key(row) for row in np.flatnonzero(events.covered).tolist()}
    assert covered == {"clip0_0", "clip1_0", "clip2_0"}


def test_clips_without_labels_are_counted_and_left_out(case: Any, audio: Index) -> None:
    """A clip that could not be labelled would stop the report, or count as silence."""
    labels = open_index(case[0] / "labels", kind="labels")
    count = labels.table.count.copy()
    count[[0, 8]] = 0
    holes = dataclasses.replace(
        labels, table=dataclasses.replace(labels.table, count=count)
    )
    seen = tally(audio, holes, CHUNKING, None, threshold=0.5)
    assert (seen.num_unlabelled, seen.num_chunks) == (2, 88)
    assert seen.clip_max.counts.sum() == 22 * 3


def test_without_events_or_matplotlib_the_numbers_are_there(
    case: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster without a strong CSV or matplotlib there would be no report."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "psl.label_report.pictures", raising=False)
    labels = case[0] / "labels"
    with pytest.raises(ValueError, match="matplotlib is not installed.*--no-pictures"):
        make_report(labels, dataset, tmp_path)
    assert not list(tmp_path.iterdir())
    report = make_report(labels, dataset, tmp_path, "--no-pictures")
    assert "chunk_ap" not in report
    assert report["weak_agreement"]["num_weak_labels"] == 40
    assert report["distribution"] == case[1]["distribution"]
    assert "No `--strong` CSV" in (tmp_path / "report.md").read_text()


def test_the_picture_shows_the_clip_that_mends_most(
    case: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page would show a clip where labels and weak labels say the same.

    In clip 0 the labels add tone mid; in clip 2 they wrongly keep tone low.
    """
    figures = pytest.importorskip("matplotlib.figure")
    from psl.label_report import pictures

    labels, strong = case[0] / "labels", case[0] / "strong.csv"
    drawn = {}
    real = pictures.save

    def keep(path: Path, draw: Any, *facts: Any) -> None:
        real(path, draw, *facts)
        figure = figures.Figure()
        draw(figure, *facts)
        drawn[path.name] = figure

    monkeypatch.setattr(pictures, "save", keep)
    make_report(labels, dataset, tmp_path, "--strong", str(strong))
    assert set(drawn) == {"clip.png", "calibration.png", "recovery.png"}
    for name in drawn:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    axes = drawn["clip.png"].axes[0]
    assert axes.get_title().startswith("clip0_0 (corrects most")
    ticks = axes.get_yticklabels()
    assert [t.get_text() for t in ticks] == ["Tone low \u25cf", "Tone mid \u25cb"]
    assert [t.get_color() for t in ticks] == ["black", "#D55E00"]
    assert [t.get_text() for t in axes.texts][:4] == ["0.90", "0.20", "0.10", "0.10"]
    make_report(labels, dataset, tmp_path, "--clip", "clip5_0")
    axes = drawn["clip.png"].axes[0]
    assert "clip5_0 (chosen by hand)" in axes.get_title()
    assert axes.get_yticklabels()[0].get_text() == "Tone mid \u25cf"


def make_block(probs: list[Any], weak: list[Any], truth: list[Any]) -> Block:
    """Clips of two chunks each; a clip has the classes that its chunks have."""
    in_chunks = np.array(truth, np.uint8)
    return Block(
        rows=np.arange(len(weak)),
        lengths=np.full(len(weak), 2),
        probs=np.array(probs, np.float16),
        weak=np.array(weak, bool),
        clip_truth=in_chunks.reshape(len(weak), 2, -1).max(axis=1),
        chunk_truth=in_chunks,
    )


def test_a_label_that_does_not_change_knows_half_of_when() -> None:
    """Labels copied from the clip would seem to know less than weak labels, or more."""
    block = make_block([[0.5], [0.5], [0.2], [0.6]], [[1], [1]], [[1], [0], [1], [0]])
    expected = [[0.5, 0.5, 0.5], [0.0, 0.2, 0.6]]
    np.testing.assert_allclose(localise(block), expected, atol=1e-3)


def test_a_mended_class_tells_more_than_any_number_of_chunks() -> None:
    """The picture would show where sounds are, not which weak labels are missing."""
    weak = [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    truth = [[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 0]]
    probs = [[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]]
    scores = telling_by_events(make_block(probs, weak, truth), 0.5)
    # three cells mended; a class and the one cell of it; a cell made worse
    assert scores.tolist() == pytest.approx([1.5 / 7, 1 + 0.5 / 7, -0.5 / 7])


def test_overlapping_chunks_are_drawn_between_their_middles(
    case: Any, audio: Index
) -> None:
    """Labels would stand beside the events they speak of."""
    labels = open_index(case[0] / "labels", kind="labels")
    view = view_clip(
        *(audio, labels, Chunking(12000, 6000), 0),
        events=None,
        threshold=0.5,
        why="",
    )
    assert (view.edges * RATE).tolist() == [0, 9000, 15000, 21000, 30000]


def test_complete_weak_labels_are_said_to_lack_nothing(
    case: Any, dataset: Path, tmp_path: Path
) -> None:
    """A report of an evaluation set would show a table and a curve of nothing."""
    strong = write_events(tmp_path / "strong.csv", EVENTS[:1])
    words = ["--strong", str(strong), "--no-pictures"]
    report = make_report(case[0] / "labels", dataset, tmp_path / "out", *words)
    assert report["recovery"]["at_threshold"]["recall"] is None
    assert report["events"]["classes"] == 1
    summary = (tmp_path / "out" / "report.md").read_text()
    assert "None of 1 true (clip, class) pairs lacks its weak label" in summary
    assert "2 classes have no event" in summary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clip", "clip99_0"], "--clip clip99_0: no clip of this key has labels"),
        (["--threshold", "0"], "--threshold 0.0; expected 0 < t <= 1"),
        (["--min-overlap", "-1"], "--min-overlap -1.0; expected more than 0 s"),
        (["--max-left-out", "2"], "--max-left-out 2.0; expected 0 to 1"),
        (["--min-overlap", "0.5"], "--min-overlap does nothing without --strong"),
        (["--max-left-out", "0.1"], "--max-left-out does nothing without --strong"),
        (["--event-clips", "5"], "--event-clips does nothing without --strong"),
    ],
)
def test_a_wrong_word_is_refused_before_the_work(
    case: Any, dataset: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    """A slip would be found after an hour over two million clips."""
    with pytest.raises(ValueError, match=message):
        make_report(case[0] / "labels", dataset, tmp_path, "--no-pictures", *words)
    assert not list(tmp_path.iterdir())


def test_the_command_is_one_of_psl(case: Any, dataset: Path, run: Run) -> None:
    """`psl label_report` would be missing, or end in a traceback."""
    words = [str(case[0] / "labels"), "--audio", str(dataset)]
    words += ["--out", str(case[0] / "psl"), "--strong", str(case[0] / "none.csv")]
    result = run("psl", "label_report", *words, "--no-pictures")
    assert result.returncode == 78
    assert "none.csv: cannot read events: " in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_labels_and_a_csv_are_all_that_a_report_needs(
    case: Any, dataset: Path, tmp_path: Path
) -> None:
    """Whoever has only the labels would search for what the job knew.

    The words are those of the page; the audio is that which made.json names.
    """
    labels = write_labels(tmp_path / "labels", open_index(dataset, kind="audio"), PROBS)
    words = [str(labels), "--strong", str(case[0] / "strong.csv"), "--no-pictures"]
    with pytest.raises(ValueError, match="made.json: does not say .* with --audio"):
        label_report.main(words)
    made = labels / "made.json"
    made.write_text(json.dumps({"audio": str(tmp_path / "gone")}))
    with pytest.raises(ValueError, match="gone, where no dataset is now.* --audio"):
        label_report.main(words)
    made.write_text(json.dumps({"audio": str(dataset)}))
    label_report.main(words)
    report = json.loads((labels / "report" / "report.json").read_text())
    assert report["recovery"] == case[1]["recovery"]
    assert report["audio"] == str(dataset)
    verify(labels, audio=dataset)
    with pytest.raises(ValueError, match="say with --out"):
        label_report.main(["https://localhost/labels", "--audio", str(dataset)])


ODD_NAMES = {
    "<img src=x onerror=alert(1)>": "&lt;img src=x onerror=alert(1)&gt;",
    "Cash $\\foo{$ x": "Cash \\$\\\\foo{\\$ x",
    "a|b": "a\\|b",
    "*bold* _it_ `code`": "\\*bold\\* \\_it\\_ \\`code\\`",
    "[a](http://x)": "\\[a\\](http\\://x)",
    "two\n# lines": "two\\\\n# lines",
    "www.a.b a@b.c": "www\\.a.b a\\@b.c",
    "\u202egnp": "\\\\u202egnp",
    "\x1b[31m": "\\\\x1b\\[31m",
    "R&B ~1~": "R&amp;B \\~1\\~",
    "snake_case": "snake_case",
    "\u041c\u0443\u0437\u044b\u043a\u0430": "\u041c\u0443\u0437\u044b\u043a\u0430",
    "Child speech, kid speaking": "Child speech, kid speaking",
}
"""Names, and how Markdown writes them as they are (CommonMark, section 2.4)."""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_stays_text_in_markdown(name: str) -> None:
    """A class list from elsewhere would put scripts or a forged table into a report."""
    assert markdown(name) == ODD_NAMES[name]


def test_a_long_name_is_cut() -> None:
    """One name of a megabyte would hide the whole report."""
    assert plain("x" * 1000, 10) == "xxxxxxx..."
    assert plain("x" * 10, 10) == "x" * 10


def test_odd_names_leave_a_whole_report(
    tmp_path: Path, source: Source, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of a month's labels would fail on a dollar sign, or carry HTML.

    CSV and JSON keep the names as they are.
    """
    names = ["<img src=x>", "Cash $\\foo{$ x", "a|b `c` " + 999 * "x"]
    with open(source.class_labels, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows([n, MIDS[n], name] for n, name in enumerate(names))
    folder = tmp_path / "packed"
    done = run("shards.pack", *source.pack_arguments(folder))
    assert done.returncode == 0, done.stderr
    labels = write_labels(tmp_path / "labels", open_index(folder, kind="audio"), PROBS)
    odd = ("clip1_0", 0.0, 0.5, '"/m/evil\n# heading <b>"')
    strong = write_events(tmp_path / "strong.csv", [*EVENTS, odd])
    out = tmp_path / "out"
    words = ["--strong", str(strong), "--max-left-out", "1"]
    report = make_report(labels, folder, out, *words)
    assert (out / "clip.png").stat().st_size > 1000
    text = (out / "report.md").read_text()
    assert text in capsys.readouterr().out
    for part in ("<img", "<b>", "a|b", "\n# heading", 100 * "x"):
        assert part not in text
    assert [row["name"] for row in report["per_class"]] == names
    with open(out / "per_class.csv", newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == names
