"""A study of labels -> the files of a report.

Owns what is read, which files are written and what they say. The numbers are defined in
quality.py and in_time.py, the words of the summary in markdown.py; which pictures there
are is drawing.py's.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psl.data.labels import check_counts
from psl.detection.decode import Rule
from psl.detection.rules_file import read_rules
from psl.evaluation.true_events import Events, read_events
from psl.label_report import quality, reviewed
from psl.label_report.calibrated import (
    Before,
    describe,
    find_before,
    proper_scores,
    read_curves,
)
from psl.label_report.clip import find_clip
from psl.label_report.in_time import InTime, measure_in_time
from psl.label_report.markdown import render
from psl.label_report.tally import Tally, Truth, tally
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import Index, open_index
from shards.format.join import check_join
from shards.format.ontology import add_to_labels, read_ontology
from shards.system.files import write_atomic


@dataclass(frozen=True)
class Settings:
    """What the user chose."""

    labels: str
    """Label dataset."""
    audio: str
    """The audio dataset it was made for."""
    strong: str | None
    """CSV of true events."""
    threshold: float
    """A label that reaches it says that the class is there."""
    min_overlap: float
    """Seconds of an event in a chunk, unless half of it lies there."""
    max_left_out: float
    """Largest share of events of these clips that cannot be used."""
    rules: str | None
    """rules.json of psl.events, which finds the labels' events; None for threshold."""
    event_clips: int
    """Clips at most whose events and segments are measured."""
    ontology: str | None
    """What adds ancestors to weak labels and true events; None for nothing."""
    before: str | None
    """Labels before their calibration; None for those that made.json names, if any."""
    corrections: str | None
    """File of psl review to compare with; None for none."""
    clip: str | None
    """Key of the clip to draw; None for the most telling one."""

    def check(self) -> None:
        """ValueError naming a number out of its range."""
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"--threshold {self.threshold}; expected 0 < t <= 1")
        if not 0.0 < self.min_overlap < 1e6:
            raise ValueError(
                f"--min-overlap {self.min_overlap}; expected more than 0 s"
            )
        if not 0.0 <= self.max_left_out <= 1.0:
            raise ValueError(f"--max-left-out {self.max_left_out}; expected 0 to 1")
        if self.event_clips < 1:
            raise ValueError(f"--event-clips {self.event_clips}; expected 1 or more")
        if self.rules is not None and self.strong is None:
            raise ValueError("--rules does nothing without --strong; give both")


@dataclass(frozen=True)
class Study:
    """The labels under study, with all that belongs to them."""

    settings: Settings
    audio: Index
    labels: Index
    chunking: Chunking
    truth: Truth | None
    tally: Tally
    in_time: InTime | None
    """None without events."""
    curves: Sequence[dict[str, Any]]
    """By class, what the labels were calibrated with."""
    before: Before | None
    """The labels that these were calibrated from."""
    clip: int | None
    """Row of the clip to draw; None if there is none."""


def study_labels(settings: Settings) -> Study:
    """Read everything once.

    Raises ShardError if labels and audio do not belong together, labels cannot be
    read, or the CSV is not of these clips, ValueError for a setting out of its range.
    """
    settings.check()
    audio = open_index(settings.audio, kind="audio")
    labels = open_index(settings.labels, kind="labels")
    check_join(audio, labels)
    chunking = chunking_of(labels)
    check_counts(labels, chunking.num_chunks(audio.table.count))
    implied = None
    if settings.ontology is not None:
        ontology = read_ontology(settings.ontology)
        implied = ontology.implied(audio.classes)
        audio = add_to_labels(audio, ontology, implied)
    chosen = None if settings.clip is None else find_clip(labels, settings.clip)
    truth, in_time = None, None
    rules = [Rule(threshold=settings.threshold)] * len(audio.classes)
    if settings.rules is not None:
        rules = read_rules(settings.rules, audio.classes)
    if settings.strong is not None:
        events = read_events(settings.strong, audio, max_left_out=settings.max_left_out)
        if implied is not None:
            events = events.with_ancestors(implied)
        rate = audio.properties["sample_rate"]
        truth = Truth(events, max(1, round(settings.min_overlap * rate)))
    curves = read_curves(labels, settings.labels)
    earlier = find_before(labels, settings.labels, settings.before)
    before = None
    if earlier is not None:  # first, so that one tally at a time is in memory
        seen = tally(audio, earlier, chunking, truth, threshold=settings.threshold)
        before = Before(earlier.where, proper_scores(seen))
        del seen
    seen = tally(audio, labels, chunking, truth, threshold=settings.threshold)
    if chosen is None and seen.most_telling is not None:
        chosen = seen.most_telling[1]
    if truth is not None:
        in_time = measure_in_time(
            *(audio, labels, chunking, truth.events),
            rules=rules,
            max_clips=settings.event_clips,
        )
    return Study(
        *(settings, audio, labels, chunking, truth, seen, in_time, curves),
        *(before, chosen),
    )


def chunking_of(labels: Index) -> Chunking:
    """How the labels' clips were cut; ShardError if their index does not say."""
    try:
        return Chunking(*(labels.properties[f"{w}_samples"] for w in ("chunk", "hop")))
    except KeyError as error:
        raise ShardError(
            f"{labels.where}: its index has no {error.args[0]}; label again"
        ) from None


def make_report(study: Study) -> dict[str, Any]:
    """All numbers, as plain values for JSON."""
    seen, settings = study.tally, study.settings
    rate = study.audio.properties["sample_rate"]
    report = {
        "labels": settings.labels,
        "audio": settings.audio,
        "strong": settings.strong,
        "ontology": settings.ontology,
        "threshold": settings.threshold,
        "chunk_seconds": study.chunking.chunk_samples / rate,
        "hop_seconds": study.chunking.hop_samples / rate,
        "num_clips": len(study.labels),
        "num_clips_without_labels": seen.num_unlabelled,
        "num_chunks": seen.num_chunks,
        "num_classes": len(study.audio.classes),
        "provenance": list(study.labels.provenances),
        "distribution": quality.distribution(seen),
        "weak_agreement": quality.weak_agreement(seen),
        "calibrated": describe(
            study.labels, study.curves, proper_scores(seen), study.before
        ),
    }
    if settings.corrections is not None:
        report["reviewed"] = reviewed.compare(
            settings.corrections,
            study.audio,
            study.labels,
            study.chunking,
            settings.threshold,
        )
    if study.truth is not None:
        ap = quality.chunk_precision(seen)
        report["events"] = describe_events(study.truth.events) | {
            "min_overlap_seconds": settings.min_overlap
        }
        report["chunk_ap"] = {name: quality.macro(v) for name, v in ap.items()} | {
            "num_classes": int(np.isfinite(ap["pseudo"]).sum())
        }
        report["recovery"] = quality.recovery(seen, settings.threshold)
        report["localisation"] = quality.localisation(seen)
        report["calibration"] = quality.calibration(seen)
        report["in_time"] = None
    classes, columns = study.audio.classes, quality.per_class(seen, settings.threshold)
    if study.in_time is not None:
        report["in_time"] = study.in_time.summary() | {"rules": settings.rules}
        columns |= study.in_time.measured.columns()
    report["per_class"] = [
        {"mid": classes.mids[c], "name": classes.names[c]}
        | {name: plain(values[c]) for name, values in columns.items()}
        for c in range(len(classes))
    ]
    return json.loads(json.dumps(report, default=plain, allow_nan=False))


def plain(value: Any) -> Any:
    """A NumPy value for JSON; None for NaN."""
    if isinstance(value, np.ndarray | np.integer):
        return value.tolist()
    return quality.finite(value)


def describe_events(events: Events) -> dict[str, Any]:
    """What was used of the CSV, and what was not."""
    return {
        "used": len(events.row),
        "clips": int(events.covered.sum()),
        "clips_not_in_csv": int((~events.covered).sum()),
        "classes": len(np.unique(events.label)),
        "cut_at_clip_end": events.num_cut,
        "left_out_nothing_in_clip": events.num_outside,
        "left_out_unknown_mid": sum(events.unknown.values()),
        "unknown_mids": events.unknown,
        "of_other_segments": events.num_elsewhere,
        "other_segments": events.num_segments_elsewhere,
    }


def per_class_csv(report: dict[str, Any]) -> str:
    """The per-class table, a class a line, in class order; empty where undefined."""
    buffer = io.StringIO()
    rows = report["per_class"]
    writer = csv.DictWriter(buffer, ["index", *rows[0]], lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(rows):
        short = {k: f"{v:.6g}" for k, v in row.items() if isinstance(v, float)}
        writer.writerow({"index": number} | row | short)
    return buffer.getvalue()


def write_report(report: dict[str, Any], out: Path) -> None:
    """per_class.csv, report.md, and report.json last."""
    write_atomic(out / "per_class.csv", per_class_csv(report))
    write_atomic(out / "report.md", render(report))
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    write_atomic(out / "report.json", text)
