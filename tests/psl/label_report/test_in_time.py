"""What labels know about when: measured as a model's frames are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from psl import evaluate, events, label, label_report, train
from psl.detection.decode import Rule
from psl.evaluation.true_events import read_events
from psl.label_report.in_time import InTime, measure_in_time
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.chunking import Chunking
from shards.format.classes import Classes
from shards.format.index import Index, open_index
from shards.format.label_codec import encode_labels
from tests.learning import teacher_config
from tests.psl.detection.psds_oracle import CASES
from tests.psl.label_report.test_label_report import (
    EVENTS,
    HEADER,
    PROBS,
    make_report,
    write_events,
    write_labels,
)

RATE = 10_000
CHUNK = 200
"""Samples. All frames of the stored cases are a multiple of 0.02 s long."""


def write_case(folder: Path, case: dict[str, Any]) -> tuple[Index, Index, Path]:
    """Audio (silence), labels and true events of a stored case.

    Each frame is so many equal chunks, of which a run begins and ends where its does.
    """
    names = tuple(f"/m/{label}" for label in range(case["num_classes"]))
    classes = Classes(names, names)
    rows: dict[str, list[Row]] = {"audio": [], "labels": []}
    lines = []
    for place, clip in enumerate(case["clips"]):
        key, edges = f"clip{place}_0", clip["edges"]
        repeats = round(edges[1] * RATE / CHUNK)
        probs = np.repeat(np.array(clip["scores"]), repeats, axis=0)
        num_samples = round(edges[-1] * RATE)
        rows["audio"].append(
            Row(key, "wav", bytes(44 + 2 * num_samples), num_samples, (0,))
        )
        rows["labels"].append(Row(key, "npy", encode_labels(probs), len(probs)))
        own = [(names[int(c)], a, b) for c, a, b in clip["truth"]]
        # a row of another class list names a clip without events
        lines += [f"{key}\t{a:.4f}\t{b:.4f}\t{m}\n" for m, a, b in own]
        lines += [] if own else [f"{key}\t0\t1\t/m/other\n"]
    strong = folder / "strong.tsv"
    strong.write_text(HEADER + "".join(lines))
    properties: dict[str, dict[str, Any]] = {
        "audio": {"sample_rate": RATE, "codec": "wav"},
        "labels": {"chunk_samples": CHUNK, "hop_samples": CHUNK, "sample_rate": RATE},
    }
    opened = []
    for kind, of_kind in rows.items():
        builder = DatasetBuilder(
            *(folder / kind, kind, classes, properties[kind], {"audio_fingerprint": ""})
        )
        assert builder.begin()
        builder.add("000000.tar", of_kind)
        assert builder.publish(["000000.tar"])
        opened.append(open_index(folder / kind, kind=kind))
    return opened[0], opened[1], strong


def measured(
    audio: Index, labels: Index, strong: Path, chunk: int, *, max_clips: int = 1000
) -> InTime | None:
    """What is measured of labels of ``chunk`` samples."""
    return measure_in_time(
        *(audio, labels, Chunking(chunk, chunk)),
        read_events(strong, audio, max_left_out=0.5),
        rules=[Rule()] * len(audio.classes),
        max_clips=max_clips,
    )


@pytest.mark.parametrize("number", [0, 2, 5, 9])
def test_psds_of_labels_is_what_the_reference_says(number: int, tmp_path: Path) -> None:
    """A teacher would be compared with its students on another scale.

    The expected values are those of sed_scores_eval (psds_oracle.py).
    """
    case = json.loads(CASES.read_text())[number]
    found = measured(*write_case(tmp_path, case), CHUNK)
    assert found is not None
    columns, values = found.measured.columns(), found.summary()
    for name in ("psds1", "psds2"):
        assert values[name] == pytest.approx(case[name], abs=1e-6)
        np.testing.assert_allclose(columns[name], case[f"{name}_classes"], atol=1e-6)
    assert values["frame_seconds"] == pytest.approx(CHUNK / RATE)
    assert values["num_clips"] == values["num_candidates"] == len(case["clips"])


def test_f1_and_segments_are_those_of_hand_made_labels(
    dataset: Path, tmp_path: Path
) -> None:
    """Readers would take the labels' events for better, or worse, than they are.

    At 0.5 the labels say: low in the first chunk of clips 0 and 2, mid in the second of
    clip 0 and in the first and third of clip 1, high in all of clip 2.
    """
    audio = open_index(dataset, kind="audio")
    labels = write_labels(tmp_path / "labels", audio, PROBS)
    strong = write_events(tmp_path / "strong.csv", EVENTS)
    words = ["--strong", str(strong), "--no-pictures"]
    report = make_report(labels, dataset, tmp_path / "out", *words)
    found = report["in_time"]
    # right, false and missed events: low 1, 1, 0; mid 2, 1, 0; high 1, 0, 1
    assert found["event_f1_macro"] == pytest.approx((2 / 3 + 4 / 5 + 2 / 3) / 3)
    # right, false and missed seconds: low 1, 1, 0; mid 2, 1, 0; high 2, 0, 1
    assert found["segment_f1_macro"] == pytest.approx((2 / 3 + 4 / 5 + 4 / 5) / 3)
    true = {"clip0_0": [[1, 1, 0], [0, 0, 0]], "clip1_0": [[0, 0, 1], [0, 1, 0]]}
    true["clip2_0"] = [[0, 0, 1], [0, 0, 1]]
    scores = [np.float16(PROBS[key]).reshape(2, 2, 3).mean(axis=1) for key in true]
    expected = average_precision_score(
        np.concatenate(list(true.values())), np.concatenate(scores), average=None
    )
    assert found["segment_mAP"] == pytest.approx(expected.mean())
    columns = [row["segment_ap"] for row in report["per_class"]]
    assert columns == pytest.approx(expected.tolist())
    assert [row["event_f1"] for row in report["per_class"]][0] == pytest.approx(2 / 3)
    counts = [found[f"num_{what}"] for what in ("clips", "candidates", "events")]
    assert counts == [3, 3, 5]
    summary = (tmp_path / "out" / "report.md").read_text()
    assert "3 clips, 5 events (those that touch are one), mean of 3 classes" in summary
    assert "| event F1, at 0.5 | 71.1 |" in summary


def test_rules_fitted_elsewhere_find_the_events(dataset: Path, tmp_path: Path) -> None:
    """Labels at one threshold would stand beside students with fitted ones."""
    audio = open_index(dataset, kind="audio")
    labels = write_labels(tmp_path / "labels", audio, PROBS)
    strong = write_events(tmp_path / "strong.csv", EVENTS)
    rule = {"median_seconds": 0.0, "min_seconds": 0.0, "max_gap_seconds": 0.0}
    rules = {
        "/m/low": {**rule, "threshold": 0.65},  # without the false one of clip 2
        "/m/mid": {**rule, "threshold": 0.65},
        "/m/high": {**rule, "threshold": 0.35},  # with the missed one of clip 1
    }
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"version": 1, "how": {}, "rules": rules}))
    words = ["--strong", str(strong), "--no-pictures"]
    out = tmp_path / "out"
    report = make_report(labels, dataset, out, *words, "--rules", str(path))
    found = report["in_time"]
    assert found["event_f1_macro"] == pytest.approx((1 + 4 / 5 + 1) / 3)
    assert found["rules"] == str(path)
    assert "| event F1, by " in (out / "report.md").read_text()
    with pytest.raises(ValueError, match="--rules does nothing without --strong"):
        make_report(labels, dataset, out, "--no-pictures", "--rules", str(path))
    with pytest.raises(ValueError, match="--event-clips 0; expected 1 or more"):
        make_report(labels, dataset, out, *words, "--event-clips", "0")


def test_a_limit_of_clips_takes_them_evenly(dataset: Path, tmp_path: Path) -> None:
    """Of AudioSet-strong only the first shards would be measured, or days spent."""
    audio = open_index(dataset, kind="audio")
    labels = open_index(write_labels(tmp_path / "labels", audio, PROBS), kind="labels")
    rows = [(audio.key(row), 0.0, 1.0, "/m/low") for row in range(24)]
    rows += [(audio.key(row), 0.0, 1.0, "/m/mid") for row in (0, 6, 12, 18)]
    strong = write_events(tmp_path / "strong.csv", rows)
    found = measured(audio, labels, strong, 8000, max_clips=4)
    assert found is not None and found.num_candidates == 24
    assert found.measured.num_clips == found.measured.segments.num_clips == 4
    assert found.measured.num_events.tolist() == [4, 4, 0]


def test_a_rest_without_a_chunk_belongs_to_the_last_one(tmp_path: Path) -> None:
    """Clips would be shorter than they are, and false alarms an hour too many."""
    classes = Classes(("/m/a",), ("A",))
    opened = []
    for kind, row in (
        ("audio", Row("a_0", "wav", bytes(48_044), 24_000, (0,))),
        ("labels", Row("a_0", "npy", encode_labels(np.array([[0.9], [0.1]])), 2)),
    ):
        properties = {"sample_rate": RATE, "codec": "wav"}
        if kind == "labels":
            properties = {"chunk_samples": RATE, "hop_samples": RATE}
        builder = DatasetBuilder(tmp_path / kind, kind, classes, properties, {})
        assert builder.begin()
        builder.add("0.tar", [row])
        assert builder.publish(["0.tar"])
        opened.append(open_index(tmp_path / kind, kind=kind))
    strong = write_events(tmp_path / "s.tsv", [("a_0", 0.0, 1.0, "/m/a")])
    found = measured(opened[0], opened[1], strong, RATE)
    assert found is not None and found.measured.psds1.value == 1.0
    # frames of 1 and 1.4 s
    assert found.measured.frame_seconds == pytest.approx(1.2)
    late = write_events(tmp_path / "l.tsv", [("a_0", 2.1, 2.4, "/m/a")])
    assert measured(opened[0], opened[1], late, RATE) is None  # in no segment


def test_events_of_clips_without_labels_are_said_to_measure_nothing(
    dataset: Path, tmp_path: Path
) -> None:
    """A crash after the hours of a large report, or a mean of nothing."""
    audio = open_index(dataset, kind="audio")
    labels = write_labels(tmp_path / "labels", audio, {"clip0_0": np.zeros((0, 3))})
    strong = write_events(tmp_path / "strong.csv", EVENTS[:1])
    words = ["--strong", str(strong), "--no-pictures"]
    report = make_report(labels, dataset, tmp_path / "out", *words)
    assert report["in_time"] is None
    summary = (tmp_path / "out" / "report.md").read_text()
    assert "## Events in time\n\nNo clip with labels has a true event" in summary


@pytest.mark.parametrize(
    "event", [("clip0_0", 5.0, 6.0, "/m/low"), ("clip0_0", 0.0, 1.0, "/m/new")]
)
def test_events_that_may_all_be_left_out_leave_a_report_without_them(
    dataset: Path, tmp_path: Path, event: tuple[str, float, float, str]
) -> None:
    """A mean of nothing would be a NaN, which no JSON reader takes."""
    audio = open_index(dataset, kind="audio")
    labels = write_labels(tmp_path / "labels", audio, PROBS)
    strong = write_events(tmp_path / "strong.csv", [event])
    words = ["--strong", str(strong), "--max-left-out", "1", "--no-pictures"]
    report = make_report(labels, dataset, tmp_path / "out", *words)
    assert report["in_time"] is None and report["events"]["used"] == 0
    assert "nan" not in (tmp_path / "out" / "report.md").read_text().lower()


def test_one_clip_of_one_class_has_every_number(dataset: Path, tmp_path: Path) -> None:
    """A user who annotated a single clip would get a crash, or a NaN."""
    audio = open_index(dataset, kind="audio")
    labels = open_index(write_labels(tmp_path / "labels", audio, PROBS), kind="labels")
    strong = write_events(tmp_path / "strong.csv", EVENTS[:1])
    found = measured(audio, labels, strong, 8000)
    assert found is not None
    values = found.summary()
    assert (values["num_clips"], values["num_classes"], values["psds1"]) == (1, 1, 1.0)
    assert all(math.isfinite(value) for value in values.values())


def test_labels_and_their_teacher_in_windows_have_the_same_numbers(
    dataset: Path, tmp_path: Path
) -> None:
    """One table could not hold both: "one scale" is what the report promises.

    psl.events asks the teacher about the same windows that psl.label wrote down.
    """
    train.main(teacher_config(tmp_path, dataset))
    run, labels = f"{tmp_path}/run", tmp_path / "labels"
    words = [f"audio={dataset}", "batch_size=8"]
    label.main([f"teacher={run}", *words, f"out={labels}", "chunk_seconds=0.5"])
    index = open_index(labels, kind="labels")
    probs = np.stack([MemberReader(index).labels(row) for row in range(len(index))])
    strong = write_events(tmp_path / "strong.csv", likely_events(probs, index))
    threshold = f"{np.quantile(probs, 0.9):.4f}"
    words = [*words, f"checkpoint={run}", f"strong={strong}", "window_seconds=0.5"]
    expected = []
    for main, more in ((events.main, [f"threshold={threshold}"]), (evaluate.main, [])):
        main([*words, f"out={tmp_path}/out", *more])
        expected.append(json.loads((tmp_path / "out" / "metrics.json").read_text()))
    said, by_evaluate = expected
    segment_map = by_evaluate["segments"]["mAP"]
    assert said["segment_mAP"] == pytest.approx(segment_map, abs=1e-6)
    more = ["--strong", str(strong), "--threshold", threshold, "--no-pictures"]
    label_report.main([str(labels), *more])
    found = json.loads((labels / "report" / "report.json").read_text())["in_time"]
    names = ("psds1", "psds2", "event_f1_macro", "segment_f1_macro", "segment_mAP")
    for name in names:  # labels are float16: of two nearly equal ones either may lead
        assert 0.05 < said[name] < 0.99, (name, said[name])
        assert math.isclose(found[name], said[name], abs_tol=0.02), name
    for name in ("num_clips", "num_events", "num_classes", "frame_seconds"):
        assert found[name] == said[name]


def likely_events(probs: np.ndarray, labels: Index) -> list[Any]:
    """Of each class, where labels [R, K, C] are highest, but for the third highest one.

    And one of every clip where its label is lowest, so that all clips are measured.
    """
    found = []
    for column, mid in enumerate(labels.classes.mids):
        falling = np.argsort(-probs[:, :, column], axis=None, kind="stable")
        places = [divmod(n, 4) for n in falling[[0, 1, 3, 4, 5, 6, 7]].tolist()]
        places += enumerate(probs[:, :, 0].argmin(axis=1)) if column == 0 else []
        found += [(labels.key(r), k / 2, k / 2 + 0.5, mid) for r, k in places]
    return found
