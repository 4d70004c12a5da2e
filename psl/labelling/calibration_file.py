"""calibration.json: the line of each class, and what it was fitted to.

Owns the file. Strict JSON, so that anyone can read it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psl.labelling.calibration import Line
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.schema import parse_json
from shards.system.files import read_bounded, sha256_of

CALIBRATION_NAME = "calibration.json"
VERSION = 1
MAX_BYTES = 64 << 20
"""A longer file is refused; 527 classes have 80 kB."""


@dataclass(frozen=True)
class Calibration:
    """A file that fits the classes of some audio."""

    a: np.ndarray
    """[C] float64."""
    b: np.ndarray
    """[C] float64."""
    data: bytes
    """The file."""
    method: str

    @property
    def provenance(self) -> dict[str, str]:
        """What labels made with it record: other lines, other labels."""
        return {"method": self.method, "sha256": sha256_of(self.data)}


def file_bytes(
    classes: Classes,
    lines: list[Line],
    counts: np.ndarray,
    *,
    method: str,
    labels: str,
    audio: str,
) -> bytes:
    """The file; ``counts`` [2, C] are clips with and without each class's weak label.

    ``labels`` and ``audio`` are the fingerprints of what was fitted.
    """
    rows = [
        {
            "mid": classes.mids[c],
            "name": classes.names[c],
            "a": line.a,
            "b": line.b,
            "how": line.how,
            "positives": int(counts[0, c]),
            "negatives": int(counts[1, c]),
        }
        for c, line in enumerate(lines)
    ]
    facts = {
        "calibration_version": VERSION,
        "method": method,
        "formula": "sigmoid(a * logit(p) + b)",
        "labels_fingerprint": labels,
        "audio_fingerprint": audio,
        "classes": rows,
    }
    return (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode()


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
            f"{where}: of {len(mids)} classes, but the audio has {len(classes)}, or "
            "another order; calibrate labels of this class list"
        )
    a, b = (np.array([_number(row, k, where) for row in rows]) for k in "ab")
    return Calibration(a, b, data, str(found.get("method")))


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
