"""What a run folder tells of its model: who taught it, and how good it is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from psl.teachers.origin import IMPORTED, Origin, origin_of, run_of
from psl.weights.checkpoint import Checkpoint
from psl.weights.result import read_result
from shards.errors import ShardError
from shards.format.index import open_index
from shards.system.files import read_plain

_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class About:
    """Plain facts; what is not known is None or empty."""

    teacher: str | None = None
    origin: Origin | None = None
    """The published weights that these go back to."""
    data: list[str] = field(default_factory=list)
    """The audio datasets of the training."""
    metrics: dict[str, float] = field(default_factory=dict)
    measured_on: str = ""


def about(checkpoint: Checkpoint) -> About:
    """What the files around a checkpoint say; a damaged one says nothing."""
    origin = origin_of(checkpoint)
    if checkpoint.training.plan_fingerprint.startswith(IMPORTED):
        source = checkpoint.training.plan_fingerprint.removeprefix(IMPORTED)
        return About(f"none: published weights, {Path(source).name}", origin)
    run = run_of(checkpoint)
    metrics, measured_on = _metrics(run)
    data = _mapping(run, "config.yaml").get("data")
    data = data if isinstance(data, dict) else {}
    return About(
        teacher=_teacher(data),
        origin=origin,
        data=[Path(str(place)).name for place in _listed(data.get("audio"))],
        metrics=metrics,
        measured_on=measured_on,
    )


def _metrics(run: Path) -> tuple[dict[str, float], str]:
    with contextlib.suppress(ShardError):
        result = read_result(run)
        if result is not None:
            best = result.average.valid_mAP if result.average else result.valid_mAP
            return {"mAP": best}, result.validated_on
    return {}, ""


def _teacher(data: dict[str, Any]) -> str | None:
    """The teacher that a configuration names, or its labels record."""
    if data.get("teacher"):
        return "; ".join(
            str(entry.get("path") if isinstance(entry, dict) else entry)
            for entry in _listed(data["teacher"])
        )
    labels = data.get("labels")
    if labels in (None, [], "online"):
        return "none: weak labels" if data else None
    found = []
    for place in _listed(labels):
        with contextlib.suppress(ShardError, ValueError, OSError):
            for provenance in open_index(str(place), kind="labels").provenances:
                for teacher in _listed(provenance.get("teachers")):
                    found.append(_named(teacher))
    return "; ".join(dict.fromkeys(found)) or None


def _named(teacher: Any) -> str:
    """A member of a teacher as labels record it: kind and weights."""
    if not isinstance(teacher, dict):
        return str(teacher)[:80]
    model = teacher.get("model") or teacher.get("architecture") or ""
    name = model.get("name", "") if isinstance(model, dict) else model
    sha256 = teacher.get("weights_sha256") or teacher.get("file_sha256") or ""
    return f"{teacher.get('kind', '?')} {name} {str(sha256)[:12]}".replace("  ", " ")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _mapping(folder: Path, name: str) -> dict[str, Any]:
    with contextlib.suppress(ShardError, OSError, ValueError, yaml.YAMLError):
        found = yaml.safe_load(read_plain(folder, name, max_bytes=_MAX_BYTES))
        return found if isinstance(found, dict) else {}
    return {}
