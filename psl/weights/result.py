"""result.json: marks a finished run and names its best checkpoint.

Owns the file, and the rule by which a run folder stands for one of its checkpoints:
the average, if the run ends in one, or else the best by validation mAP.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from shards.errors import ShardError
from shards.system.files import read_plain, write_atomic

RESULT_NAME = "result.json"
MAX_BYTES = 1 << 20
"""A longer result.json is refused."""


@dataclass(frozen=True)
class Average:
    """An average of checkpoints."""

    steps: tuple[int, ...]
    """Steps of the averaged checkpoints, best first."""
    valid_mAP: float
    """Validation mAP of the average, in [0, 1]."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    best_checkpoint: str
    """Name of the folder below checkpoints/."""
    valid_mAP: float
    """Validation mAP of the best checkpoint, in [0, 1]."""
    steps: int
    """Optimizer steps done."""
    validated_on: str = ""
    """What the mAP is measured on."""
    average: Average | None = None
    """The average of the best checkpoints, if there is one; it then represents the
    run."""


def write_result(run_dir: str | Path, result: Result) -> None:
    """Put result.json into a run folder."""
    text = json.dumps(asdict(result), indent=1, allow_nan=False) + "\n"
    write_atomic(Path(run_dir, RESULT_NAME), text)


def remove_result(run_dir: str | Path) -> None:
    """Take the mark of a finished run away, if it is there."""
    Path(run_dir, RESULT_NAME).unlink(missing_ok=True)


def read_result(run_dir: str | Path) -> Result | None:
    """The result of a finished run; None for one that is not finished.

    Raises ShardError if the file is damaged.
    """
    path = Path(run_dir, RESULT_NAME)
    if not path.exists():
        return None
    try:
        data = read_plain(run_dir, RESULT_NAME, max_bytes=MAX_BYTES)
        return TypeAdapter(Result).validate_json(data)
    except ValueError as error:
        problem = " ".join(str(error).split())
        raise ShardError(f"{path}: damaged: {problem}; start the run again") from None
