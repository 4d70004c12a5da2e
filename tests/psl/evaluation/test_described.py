"""What psl.evaluate and psl.events say on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from psl import evaluate
from psl.evaluation.described import described, described_events

FOUND: dict[str, Any] = {
    "version": 2,
    "mAP": 0.34567,
    "AUC": 0.9,
    "d_prime": None,
    "lwlrap": 0.5,
    "recall_at_0.2": 0.25,
    "num_clips": 300,
    "num_classes_with_positives": 21,
    "undefined": {"d_prime": "infinite, since AUC is 1"},
    "intervals": {"mAP": [0.3, 0.391], "AUC": None, "d_prime": None},
    "bootstrap": {"resamples": 1000, "seed": 0, "confidence": 0.95},
    "labels": "data/eval",
    "sha256_of_clips": "60f0",
}


def test_values_are_in_percent_with_their_intervals_and_reasons() -> None:
    """A reader would misread 0.34 next to a table in percent."""
    assert described(FOUND).splitlines() == [
        "300 clips, 21 classes with positives, against data/eval",
        "  mAP             34.57  (30.00 to 39.10)",
        "  AUC             90.00",
        "  lwlrap          50.00",
        "  recall at 0.2   25.00",
        "  d'                  -  infinite, since AUC is 1",
        "  in brackets: 95 % intervals over clips",
        "  sha256 of these clips: 60f0",
    ]


def test_other_labels_coverage_and_segments_have_lines_of_their_own() -> None:
    """What was asked for would be in a file that nobody opens."""
    more = {
        "coverage": {
            "present": 18000,
            "listed": 20371,
            "share": 0.8836,
            "unlisted": 5,
            "sha256_of_present": "ab12",
        },
        "ontology": {**FOUND, "labels": "audioset", "clips_elsewhere": 0},
        "segments": {
            "segment_seconds": 1.0,
            "mAP": 0.2,
            "mAP_in_positive_clips": 0.5,
            "chance_in_positive_clips": 0.125,
        },
    }
    lines = described({**FOUND, **more}).splitlines()
    place = lines.index("  18000 of 20371 official segments are here (88.4 %)")
    assert lines[place + 1 : place + 3] == [
        "  sha256 of those: ab12",
        "  5 clips are in no line of that list",
    ]
    assert "against ontology labels (audioset)" in lines
    assert lines[-3:] == [
        "segments of 1 s, against true events",
        "  mAP             20.00",
        "  in its clips    50.00  (a guess: 12.50)",
    ]
    more["segments"] |= {
        "mAP_in_positive_clips": None,
        "undefined": {"mAP_in_positive_clips": "every class sounds in all"},
    }
    last = described({**FOUND, **more}).splitlines()[-1]
    assert last == "  in its clips        -  every class sounds in all"


def test_events_are_counted_and_measured_where_the_truth_is_known() -> None:
    """A user would not learn how good the events are, or where they were written."""
    some = {"num_clips": 3, "num_found": 7}
    assert described_events(some) == (
        "3 clips, 7 events found; name the true ones with strong= to measure"
    )
    measured = dict.fromkeys(
        ("psds1", "psds2", "event_f1_macro", "segment_f1_macro", "segment_mAP"), 0.5
    )
    lines = described_events(
        {**some, **measured, "num_events": 9, "num_classes": 2}
    ).splitlines()
    assert lines[0] == "3 clips, 7 events found, 9 true events of 2 classes"
    assert lines[1] == "  PSDS1           50.00" and len(lines) == 6


def test_a_program_asks_for_json(
    teacher: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script would have to take numbers out of sentences."""
    words = [f"checkpoint={teacher}", f"audio={dataset}"]
    evaluate.main([*words, f"out={tmp_path}/a", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "a/metrics.json").read_text())
    evaluate.main([*words, f"out={tmp_path}/b"])
    assert f"  mAP            {100 * said['mAP']:6.2f}" in capsys.readouterr().out
