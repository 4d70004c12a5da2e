"""calibration.json: the line or steps of each class, and what they were fitted to.

Owns the file. Strict JSON, so that anyone can read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psl.labelling.calibration import Line, Steps, calibrated
from psl.labelling.hearing import HEARING_FACTS
from shards.errors import ShardError
from shards.format.classes import Classes, class_difference
from shards.format.index import Index
from shards.format.schema import parse_json
from shards.system.files import read_bounded, sha256_of

CALIBRATION_NAME = "calibration.json"
VERSION = 1
MAX_BYTES = 64 << 20
"""A longer file is refused; 527 classes have 80 kB."""
DIGITS = 3
"""Of seconds; at other rates a chunk differs by half a sample."""
FORMULAS = {
    "line": "sigmoid(a * logit(p) + b)",
    "points": "interpolated over logit(p) between points [p, value], constant beyond; "
    "classes without points: sigmoid(a * logit(p) + b)",
}


@dataclass(frozen=True)
class Calibration:
    """A file that fits the classes of some audio."""

    a: np.ndarray
    """[C] float64."""
    b: np.ndarray
    """[C] float64."""
    steps: dict[int, Steps]
    """Of the classes that have no line; theirs in ``a`` and ``b`` is 1, 0."""
    data: bytes
    """The file."""
    method: str
    fitted_to: dict[str, Any]
    """What made the labels that were fitted: teacher, chunks and what was heard."""

    @property
    def provenance(self) -> dict[str, str]:
        """What labels made with it record: other lines, other labels."""
        return {"method": self.method, "sha256": sha256_of(self.data)}

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """Probabilities [..., C] float32 of ``probs`` [..., C], rounded to float16.

        Invalid probabilities stay, for the codec to refuse.
        """
        made = calibrated(probs, self.a, self.b)
        for c, steps in self.steps.items():
            made[..., c] = steps.at(probs[..., c])
        return made

    def check(self, made_with: Mapping[str, Any], where: str) -> None:
        """ValueError unless labels are made as those that were fitted."""
        for name, value in self.fitted_to.items():
            if made_with.get(name) != value:
                raise ValueError(
                    f"{where}: fitted to labels with {name} = {value!r:.80}, but these "
                    f"are made with {made_with.get(name)!r:.80}; calibrate labels that "
                    "are made like these"
                )


def made_with(labels: Index) -> dict[str, Any]:
    """What decides the calibration of ``labels``, as far as it is known."""
    found, rate = labels.provenances[0], labels.properties["sample_rate"]
    seconds = labels.properties["chunk_samples"] / rate
    facts = {name: found.get(name) for name in HEARING_FACTS}
    if "teacher_sha256" in found:
        facts["teacher_sha256"] = found["teacher_sha256"]
    return {**facts, "chunk_seconds": round(seconds, DIGITS)}


def file_bytes(
    classes: Classes,
    lines: Sequence[Line | Steps],
    counts: np.ndarray,
    *,
    method: str,
    labels: Index,
    audio: Index,
) -> bytes:
    """The file; ``counts`` [2, C] are clips with and without each class's weak label.

    ``labels`` of ``audio`` are what was fitted.
    """
    rows = [
        {
            "mid": classes.mids[c],
            "name": classes.names[c],
            **_facts(line),
            "how": line.how,
            "positives": int(counts[0, c]),
            "negatives": int(counts[1, c]),
        }
        for c, line in enumerate(lines)
    ]
    facts = {
        "calibration_version": VERSION,
        "method": method,
        "formula": FORMULAS["points" if method == "isotonic" else "line"],
        "labels_fingerprint": labels.fingerprint,
        "audio_fingerprint": audio.fingerprint,
        "fitted_to": made_with(labels),
        "classes": rows,
    }
    return (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode()


def _facts(line: Line | Steps) -> dict[str, Any]:
    if isinstance(line, Line):
        return {"a": line.a, "b": line.b}
    pairs = zip(line.probs.tolist(), line.values.tolist(), strict=True)
    return {"points": [list(pair) for pair in pairs]}


def read_calibration(path: str | Path, classes: Classes) -> Calibration:
    """A calibration.json, or that of a label dataset, for audio of ``classes``.

    Raises ShardError if it is not there, damaged, or of other classes.
    """
    place = Path(path)
    place = place / CALIBRATION_NAME if place.is_dir() else place
    if not place.exists():
        raise ShardError(
            f"{place}: not there; expected the {CALIBRATION_NAME} of psl.calibrate, or "
            "the label dataset that has it"
        )
    return parse_calibration(read_bounded(place, MAX_BYTES), classes, where=str(place))


def parse_calibration(data: bytes, classes: Classes, *, where: str) -> Calibration:
    """The calibration in the bytes of such a file.

    Raises ShardError if it is damaged or of other classes.
    """
    found = parse_json(data, where=where)
    if not isinstance(found, dict) or found.get("calibration_version") != VERSION:
        raise ShardError(
            f"{where}: not a calibration of version {VERSION}; expected the "
            f"{CALIBRATION_NAME} that psl.calibrate writes"
        )
    rows = found.get("classes")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ShardError(f"{where}: has no list of classes; calibrate again")
    mids = tuple(row.get("mid") for row in rows)
    if mids != classes.mids:
        raise ShardError(
            f"{where}: not the classes of the audio: "
            f"{class_difference(mids, classes.mids)}; "
            "calibrate labels of this class list"
        )
    steps = {c: _steps(row, where) for c, row in enumerate(rows) if "points" in row}
    lines = [{"a": 1.0, "b": 0.0} if "points" in row else row for row in rows]
    a, b = (np.array([_number(row, k, where) for row in lines]) for k in "ab")
    fitted_to = found.get("fitted_to", {})
    if not isinstance(fitted_to, dict):
        raise ShardError(f"{where}: fitted_to is no object; calibrate again")
    return Calibration(a, b, steps, data, str(found.get("method")), fitted_to)


def _steps(row: dict[str, Any], where: str) -> Steps:
    """The steps of a class; ShardError unless its points ascend within [0, 1]."""
    try:
        points = np.array(row["points"], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        points = np.empty((0, 2))
    with np.errstate(over="ignore", invalid="ignore"):
        stored = points[:, 0].astype(np.float16).astype(np.float64)
    rises, falls = np.diff(stored), np.diff(points[:, 1])
    inside = ((points >= 0) & (points <= 1)).all()
    if not (len(points) and inside and (rises > 0).all() and (falls >= 0).all()):
        raise ShardError(
            f"{where}: class {row.get('mid')}: points = {row['points']!r:.40}, "
            "expected pairs in [0, 1] whose first numbers rise and whose second never "
            "fall; calibrate again"
        )
    return Steps(stored, points[:, 1])


def _number(row: dict[str, Any], name: str, where: str) -> float:
    value: Any = row.get(name)
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    if not fine or not math.isfinite(value) or (name == "a" and value < 0):
        least = "a finite number" if name == "b" else "a finite number from 0"
        raise ShardError(
            f"{where}: class {row.get('mid')}: {name} = {value!r:.40}, expected "
            f"{least}; calibrate again"
        )
    return float(value)
