"""What published weights a model goes back to: its licence comes with them.

A run that started from a published teacher, or was adapted from one, keeps this record
beside its checkpoints, and hands it on to what is made of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from psl.teachers.published import TEACHERS
from psl.weights.checkpoint import FOLDER_NAME, Checkpoint
from shards.errors import ShardError
from shards.system.files import read_plain, write_atomic

ORIGIN_NAME = "origin.json"
_MAX_BYTES = 1 << 16
IMPORTED = "imported from "
"""How the plan_fingerprint of converted weights begins; then a name or a file."""


@dataclass(frozen=True)
class Origin:
    """Published weights."""

    name: str
    title: str
    license: str
    url: str
    citation: str


def origin_of(checkpoint: Checkpoint) -> Origin | None:
    """What the weights of ``checkpoint`` go back to; None if that is nothing known."""
    fingerprint = checkpoint.training.plan_fingerprint
    if fingerprint.startswith(IMPORTED):
        name = fingerprint.removeprefix(IMPORTED).partition(":")[0]
        teacher = TEACHERS.get(name)
        if teacher is None:
            return None
        return Origin(
            teacher.name, teacher.title, teacher.licence, teacher.url, teacher.citation
        )
    return read_origin(run_of(checkpoint))


def run_of(checkpoint: Checkpoint) -> Path:
    """The folder of the run; the checkpoint's own if it stands alone."""
    folder = checkpoint.folder
    return folder.parent.parent if folder.parent.name == FOLDER_NAME else folder


def read_origin(run_dir: str | Path) -> Origin | None:
    """The record in a run folder; None if there is none, or it cannot be read."""
    try:
        data = read_plain(Path(run_dir), ORIGIN_NAME, max_bytes=_MAX_BYTES)
        return TypeAdapter(Origin).validate_json(data)
    except (OSError, ShardError, ValidationError):
        return None


def write_origin(run_dir: str | Path, checkpoint: Checkpoint) -> None:
    """Keep in ``run_dir`` what ``checkpoint``, which it is made of, goes back to."""
    origin = origin_of(checkpoint)
    if origin is not None:
        text = json.dumps(asdict(origin), indent=1) + "\n"
        write_atomic(Path(run_dir, ORIGIN_NAME), text)
