"""How good an adapted model is: numbers, thresholds, and what is taken for what.

Owns the files beside the checkpoint: adapt.json, thresholds.json, confusion.csv and
.png, rejected.csv, and cross_validation/, which is as psl.evaluate leaves it. All
numbers are of recordings that the heads were fitted without.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from psl.adapting.embedded import Embedded
from psl.adapting.heads import Crossed
from psl.adapting.sounds import Sounds
from psl.evaluation.measured import measure
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.results import VERSION, write_results
from psl.evaluation.stored import StoredScores, write_scores
from psl.tagging.thresholds import fit_classes
from shards import __version__
from shards.format.classes import Classes
from shards.system.extras import pip_install
from shards.system.files import write_synced
from shards.system.report import write_report
from shards.system.text import plain

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
EVALUATION_NAME = "cross_validation"
MEANING = "held-out recordings of own sounds (cross validation)"
NOTHING = "(nothing)"
BACKGROUND = "(background)"
_MAX_PICTURE = 40
"""Classes in the picture of the confusions; the table has all."""


@dataclass(frozen=True)
class Report:
    """What is known of the new classes."""

    names: tuple[str, ...]
    num_examples: list[int]
    """Of each class that are used."""
    num_background: int
    mean_ap: float | None = None
    ap: dict[str, float] = field(default_factory=dict)
    """By name, of classes with held-out examples."""
    thresholds: dict[str, Any] | None = None
    """The content of a thresholds file."""
    confusion: np.ndarray | None = None
    """[C + 1, C + 1] int: examples of a class (last: background) by the class with the
    highest score over its threshold (last: none)."""
    scores: StoredScores | None = None
    """Of the held-out examples; the keys are their names."""
    metrics: Metrics | None = None
    """Of these."""
    losses: dict[float, float] = field(default_factory=dict)
    num_held_out: int = 0
    rejected: list[list[str]] = field(default_factory=list)
    num_repeated: int = 0


def make_report(
    sounds: Sounds, embedded: Embedded, targets: Tensor, crossed: Crossed | None
) -> Report:
    """The report of examples with ``targets`` [N, C]."""
    labels = [example.label for example in embedded.examples]
    report: dict[str, Any] = {
        "names": sounds.names,
        "num_examples": [labels.count(i) for i in range(len(sounds.names))],
        "num_background": labels.count(None),
        "rejected": embedded.rejected,
        "num_repeated": embedded.num_repeated,
    }
    if crossed is None:
        return Report(**report)
    rows = crossed.held_out
    true, scores = targets[rows].numpy(), crossed.scores[rows].numpy()
    metrics = evaluate_scores(true, scores)
    thresholds = fit_classes(true, scores, Classes(sounds.names, sounds.names))
    least = np.array(
        [
            thresholds["thresholds"].get(name, {}).get("threshold")
            or thresholds["default"]
            for name in sounds.names
        ]
    )
    return Report(
        **report,
        mean_ap=metrics.mean_ap,
        ap={
            name: float(metrics.ap[i])
            for i, name in enumerate(sounds.names)
            if metrics.num_positives[i]
        },
        thresholds=thresholds,
        confusion=confusion(true, scores, least),
        scores=StoredScores(
            np.array(
                [embedded.examples[i].where.encode() for i in np.flatnonzero(rows)]
            ),
            sounds.names,
            true > 0.5,
            scores,
        ),
        metrics=metrics,
        losses=crossed.losses,
        num_held_out=int(rows.sum()),
    )


def confusion(true: np.ndarray, scores: np.ndarray, least: np.ndarray) -> np.ndarray:
    """[C + 1, C + 1] counts of true [R, C] by what scores [R, C] over ``least`` say.

    The last row is background, the last column no score over its threshold [C].
    """
    num_classes = true.shape[1]
    over = np.where(scores >= least, scores, -1.0)
    said = np.where((over >= 0).any(axis=1), over.argmax(axis=1), num_classes)
    is_one = true.any(axis=1)
    rows = np.where(is_one, true.argmax(axis=1), num_classes)
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(counts, (rows, said), 1)
    return counts


def write_report_files(out: Path, report: Report, facts: dict[str, object]) -> None:
    """All files of ``report`` in the folder ``out``, which is not yet public."""
    write_synced(out / "adapt.json", json.dumps(as_json(report, facts), indent=1))
    if report.rejected:
        write_report(out / "rejected.csv", report.rejected)
    if report.thresholds is None or report.confusion is None:
        return
    _write_evaluation(out / EVALUATION_NAME, report)
    write_synced(out / "thresholds.json", json.dumps(report.thresholds, indent=1))
    write_synced(out / "confusion.csv", _table(report.names, report.confusion))
    if importlib.util.find_spec("matplotlib") is None:
        _log.info("no confusion.png: %s for the picture", pip_install("report"))
        return
    write_synced(out / "confusion.png", _picture(report.names, report.confusion))


def _write_evaluation(out: Path, report: Report) -> None:
    """The held-out examples as psl.report and psl.compare read an evaluation.

    Their names stand for keys of clips.
    """
    stored = report.scores
    assert stored is not None and report.metrics is not None
    out.mkdir()
    measured = measure(report.metrics, stored.targets, stored.scores)
    summary = {"version": VERSION, **measured.summary(), "labels": MEANING}
    classes = Classes(report.names, report.names)
    write_results(out, summary, classes, measured, {}, None)
    write_scores(out, stored)


def as_json(report: Report, facts: dict[str, object]) -> dict[str, Any]:
    """What adapt.json holds."""
    entries = (report.thresholds or {}).get("thresholds", {})
    return {
        "format_version": FORMAT_VERSION,
        "program_version": __version__,
        **facts,
        "mAP": report.mean_ap,
        "num_held_out": report.num_held_out,
        "classes": [
            {
                "name": name,
                "num_examples": number,
                "AP": report.ap.get(name),
                "threshold": entries.get(name, {}).get("threshold"),
            }
            for name, number in zip(report.names, report.num_examples, strict=True)
        ],
        "num_background": report.num_background,
        "num_rejected": len(report.rejected),
        "num_repeated": report.num_repeated,
        "loss_by_penalty": {f"{p:g}": loss for p, loss in report.losses.items()},
    }


def _table(names: Sequence[str], counts: np.ndarray) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["true", *names, NOTHING])
    for name, row in zip([*names, BACKGROUND], counts.tolist(), strict=True):
        writer.writerow([name, *row])
    return buffer.getvalue()


def _picture(names: Sequence[str], counts: np.ndarray) -> bytes:
    """A PNG; of more than 40 classes those that are confused most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * np.diag(counts)
    shown = np.sort(np.argsort(-wrong[:-1], kind="stable")[:_MAX_PICTURE])
    shown = np.append(shown, len(names))
    part = counts[np.ix_(shown, shown)]
    shares = part / np.maximum(part.sum(axis=1, keepdims=True), 1)
    side = 3.0 + 0.42 * len(shown)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [plain(n, 30).replace("$", r"\$") for n in [*names, ""]]
    axes.set_xticks(
        range(len(shown)),
        [*(labels[i] for i in shown[:-1]), NOTHING],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(shown)), [*(labels[i] for i in shown[:-1]), BACKGROUND])
    for y, x in np.argwhere(part):
        color = "white" if shares[y, x] > 0.6 else "black"
        axes.text(x, y, part[y, x], ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="recognised as", ylabel="true class")
    axes.set_title("Held-out examples", loc="left")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()
