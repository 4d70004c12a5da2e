"""How well labels say a probability, class by class, before and after a calibration.

Owns finding the labels before it, and the scores. Both are proper: no labels but the
true probabilities make them smaller in expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psl.label_report.quality import finite, macro, over
from psl.label_report.score_counts import VALUES
from psl.label_report.tally import ABSENT, PRESENT, Tally
from psl.labelling.calibration import LOGITS
from psl.labelling.calibration_file import CALIBRATION_NAME, parse_calibration
from psl.labelling.progress import recorded
from shards.errors import ShardError
from shards.format.index import Index, open_index
from shards.format.schema import parse_json
from shards.remote.places import is_url
from shards.system.files import read_bounded

MAX_BYTES = 64 << 20
"""A longer calibration.json is refused."""


@dataclass(frozen=True)
class Before:
    """The labels that others were calibrated from."""

    path: str
    scores: dict[str, np.ndarray]
    """What proper_scores gave for them."""


def proper_scores(tally: Tally) -> dict[str, np.ndarray]:
    """[C] mean binary cross-entropy (nats) and Brier score of each class.

    ``weak_...``: of the largest label of each clip against its weak label;
    ``true_...``, with events: of every chunk's against them. NaN where there is nothing
    to compare. Labels of 0 and 1 count as half a step of float16 away from it. Source:
    Gneiting and Raftery, JASA 2007, section 3.
    """
    clips, chunks = tally.clip_max.counts, tally.chunks.counts
    found = _scores("weak", clips[3:].sum(axis=0), clips[:3].sum(axis=0))
    if tally.has_truth:
        true, false = (chunks[[g, 3 + g]].sum(axis=0) for g in (PRESENT, ABSENT))
        found |= _scores("true", true, false)
    return found


def _scores(what: str, true: np.ndarray, false: np.ndarray) -> dict[str, np.ndarray]:
    """Of counts [C, V] of labels by value."""
    number = (true + false).sum(axis=1)
    bce = true @ np.logaddexp(0, -LOGITS) + false @ np.logaddexp(0, LOGITS)
    brier = true @ (1 - VALUES) ** 2 + false @ VALUES**2
    return {f"{what}_bce": over(bce, number), f"{what}_brier": over(brier, number)}


def find_before(labels: Index, folder: str, named: str | None) -> Index | None:
    """The labels that ``labels`` of ``folder`` were calibrated from; None if not known.

    Those that the user ``named``, else those that made.json names, if they are still
    what they were. Raises ShardError for named ones of other clips or chunks.
    """
    if named is None:
        place = recorded(folder, "calibrated_from")
        if place is None or (not is_url(place) and not Path(place).exists()):
            return None
        try:
            found = open_index(place, kind="labels")
        except ShardError:
            return None
        made_from = labels.provenances[0].get("calibrated_from")
        return found if found.fingerprint == made_from else None
    found = open_index(named, kind="labels")
    same = (
        found.classes.mids == labels.classes.mids
        and len(found) == len(labels)
        and (found.table.key == labels.table.key).all()
        and (found.table.count == labels.table.count).all()
    )
    if not same:
        raise ShardError(
            f"--before {named}: not the clips, chunks and classes of {labels.where}; "
            "name the labels that it was calibrated from"
        )
    return found


def describe(
    labels: Index,
    curves: Sequence[dict[str, Any]],
    after: dict[str, np.ndarray],
    before: Before | None,
) -> dict[str, Any] | None:
    """What report.json says of it; None for labels that nobody calibrated.

    ``curves`` are those of read_curves.
    """
    made = labels.provenances[0].get("calibration")
    if made is None and before is None:
        return None
    classes = labels.classes
    both = {"after": after} | ({"before": before.scores} if before else {})
    return {
        "method": made.get("method") if isinstance(made, dict) else None,
        "before": before.path if before else None,
        "mean": {
            when: {name: macro(values) for name, values in scores.items()}
            for when, scores in both.items()
        },
        "per_class": [
            {"mid": classes.mids[c], "name": classes.names[c], **curves[c]}
            | {
                when: {name: finite(values[c]) for name, values in scores.items()}
                for when, scores in both.items()
            }
            for c in range(len(classes))
        ],
    }


def read_curves(labels: Index, folder: str) -> Sequence[dict[str, Any]]:
    """a, b and how of each class; nothing where calibration.json is not at hand.

    Raises ShardError for a file that is not what ``labels`` were calibrated with.
    """
    made = labels.provenances[0].get("calibration")
    nothing: list[dict[str, Any]] = [{} for _ in labels.classes.mids]
    place = Path(folder, CALIBRATION_NAME)
    if made is None or is_url(folder) or not place.exists():
        return nothing
    data = read_bounded(place, MAX_BYTES)
    if parse_calibration(data, labels.classes, where=str(place)).provenance != made:
        raise ShardError(
            f"{place}: not what {folder} was calibrated with; calibrate again, or "
            "remove this file to report without it"
        )
    rows = parse_json(data, where=str(place))["classes"]
    return [{name: row.get(name) for name in ("a", "b", "how")} for row in rows]
