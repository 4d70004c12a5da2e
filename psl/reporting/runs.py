"""What the folders of runs and of evaluations hold, read for a report.

Owns which files are read, and the line about one that is damaged. Draws nothing; no
torch. A file that is not there is not an error: the page says so.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psl.config_values import read_yaml
from psl.evaluation.stored import SCORES_NAME, open_scores
from psl.job.status import STATUS_NAME
from psl.job.status import report as state_of
from shards.errors import ShardError
from shards.system.files import read_bounded

CONFIG_NAME, FACTS_NAME, METRICS_NAME = "config.yaml", "run.json", "metrics.jsonl"
"""Of a run folder; psl/training/log.py writes them."""
SUMMARY_NAME, PER_CLASS_NAME = "metrics.json", "per_class.csv"
"""Of an evaluation folder; psl/evaluation/results.py writes them."""
EVENT_SCORES = ("psds1", "psds2", "event_f1_macro", "segment_f1_macro")
"""In the metrics.json of psl.events."""
_MAX_BYTES = 1 << 20
_MAX_LOG_BYTES = 1 << 28
_PER_CLASS = ("mid", "display_name", "num_positives", "ap")


@dataclass(frozen=True)
class ClassResult:
    """How well one class is found."""

    mid: str
    name: str
    num_positives: int
    """Clips with this label."""
    ap: float | None
    """In [0, 1]; None where no clip has the class."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None where there is none."""


@dataclass(frozen=True)
class Evaluation:
    """An out folder of psl.evaluate."""

    folder: Path
    name: str
    summary: dict[str, Any]
    """metrics.json."""
    classes: list[ClassResult] | None
    """per_class.csv; None if there is none."""
    scores: Path | None
    """scores.npz, which is read when clips are shown, not held; None if not there."""
    mids: tuple[str, ...]
    """The classes of ``scores``, in the order of its columns."""


@dataclass(frozen=True)
class EventScores:
    """An out folder of psl.events."""

    folder: Path
    name: str
    summary: dict[str, Any]
    """metrics.json."""


@dataclass(frozen=True)
class Run:
    """A run folder and the evaluations of it, or evaluations alone."""

    folder: Path
    name: str
    config: dict[str, Any] | None
    """config.yaml with dotted keys; None if there is none."""
    facts: dict[str, Any] | None
    """run.json."""
    records: list[dict[str, float]] | None
    """metrics.jsonl, a line each."""
    state: tuple[str, str] | None
    """State and a line about it; None if it was never started."""
    evaluations: list[Evaluation] = field(default_factory=list)
    events: list[EventScores] = field(default_factory=list)

    @property
    def command(self) -> str | None:
        """What started it, for a shell; None if that is not recorded."""
        words = (self.facts or {}).get("command")
        if not isinstance(words, list) or not words:
            return None
        return shlex.join(str(word) for word in words)


def read_runs(words: Sequence[str]) -> list[Run]:
    """The runs that ``words`` name: RUN, or RUN,EVALUATION,... for those elsewhere.

    Raises ValueError for a folder that is no run and no evaluation, ShardError naming
    the file that is damaged.
    """
    groups = [_folders(word) for word in words]
    first = [group[0] for group in groups]
    if len({folder.resolve() for folder in first}) < len(first):
        raise ValueError(f"{', '.join(words)}: a run is named twice")
    names = short_names(first)
    return [_read_run(g, name) for g, name in zip(groups, names, strict=True)]


def _folders(word: str) -> list[Path]:
    """The folders of a word; a name with a comma that exists is one folder."""
    parts = (
        [word] if Path(word).is_dir() else [part for part in word.split(",") if part]
    )
    for part in parts or [word]:
        folder = Path(part)
        known = (CONFIG_NAME, FACTS_NAME, METRICS_NAME, SUMMARY_NAME, STATUS_NAME)
        if not folder.is_dir():
            raise ValueError(f"{part!r}: no such folder; expected the folder of a run")
        if not any((folder / name).exists() for name in known):
            raise ValueError(
                f"{folder}: neither a run nor an evaluation; expected the run_dir of "
                "psl.train or the out folder of psl.evaluate"
            )
    return [Path(part) for part in parts]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The end of each path that tells it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(these[-length:]) for these in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read_run(folders: Sequence[Path], name: str) -> Run:
    folder = folders[0]
    places = [folder] if (folder / SUMMARY_NAME).exists() else []
    places += sorted(path.parent for path in folder.glob(f"*/{SUMMARY_NAME}"))
    for other in folders[1:]:
        if not (other / SUMMARY_NAME).exists():
            raise ValueError(f"{other}: no {SUMMARY_NAME}; expected an evaluation")
        places.append(other)
    measured = [
        _read_measured(place, "" if place == folder else _name_in(folder, place))
        for place in places
    ]
    return Run(
        folder=folder,
        name=name,
        config=_if_there(folder / CONFIG_NAME, _read_config),
        facts=_if_there(folder / FACTS_NAME, _read_json),
        records=_if_there(folder / METRICS_NAME, _read_records),
        state=_if_there(folder / STATUS_NAME, lambda path: state_of(path.parent)),
        evaluations=[found for found in measured if isinstance(found, Evaluation)],
        events=[found for found in measured if isinstance(found, EventScores)],
    )


def _name_in(folder: Path, place: Path) -> str:
    return place.name if place.parent == folder else str(place)


def _if_there(path: Path, read: Callable[[Path], Any]) -> Any:
    return read(path) if path.exists() else None


def _damaged(path: Path, what: str, advice: str) -> ShardError:
    return ShardError(f"{path}: {what}; {advice}")


def _read_config(path: Path) -> dict[str, Any]:
    return dict(flatten(read_yaml(path)))


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of a nested mapping, in its order."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(path, _MAX_BYTES), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {error}", "restore or remove it") from None
    if not isinstance(found, dict):
        what = f"a {type(found).__name__}, expected keys and values"
        raise _damaged(path, what, "restore or remove it")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not finite")


def _read_records(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; one at the end that a kill cut short is left out."""
    text = read_bounded(path, _MAX_LOG_BYTES).decode("utf-8", errors="replace")
    found = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        record: Any = None
        try:
            record = json.loads(line, parse_constant=_refuse)
            wrong = not isinstance(record, dict) or "step" not in record
            wrong = wrong or not all(_is_number(value) for value in record.values())
        except (ValueError, RecursionError):
            wrong = True
        if wrong:
            what = f"line {number} is not a record of numbers with a step"
            raise _damaged(path, what, "remove the line")
        found.append(record)
    return found


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 1e300
    )


def _read_measured(folder: Path, name: str) -> Evaluation | EventScores:
    """What psl.evaluate or psl.events left in ``folder``."""
    summary = _read_json(folder / SUMMARY_NAME)
    if EVENT_SCORES[0] in summary:
        return EventScores(folder, name, summary)
    for key in ("mAP", "AUC", "d_prime"):
        value = summary.get(key)
        if key not in summary or not (value is None or _is_number(value)):
            what = f"{key} is {value!r}, expected a number"
            raise _damaged(folder / SUMMARY_NAME, what, "evaluate again")
    scores = folder / SCORES_NAME
    return Evaluation(
        folder=folder,
        name=name,
        summary=summary,
        classes=_if_there(folder / PER_CLASS_NAME, _read_per_class),
        scores=_if_there(scores, Path),
        mids=_if_there(scores, _mids_of) or (),
    )


def _mids_of(path: Path) -> tuple[str, ...]:
    with open_scores(path) as stored:
        return stored.mids


def _read_per_class(path: Path) -> list[ClassResult]:
    text = read_bounded(path, _MAX_LOG_BYTES).decode("utf-8", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found = []
    try:
        if missing := set(_PER_CLASS) - set(rows.fieldnames or ()):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        for row in rows:
            found.append(
                ClassResult(
                    mid=row["mid"],
                    name=row["display_name"],
                    num_positives=int(row["num_positives"]),
                    ap=_share(row["ap"]),
                    low=_share(row.get("ap_low")),
                    high=_share(row.get("ap_high")),
                )
            )
    except (ValueError, TypeError, csv.Error) as error:
        what = f"line {rows.line_num}: {error}"
        raise _damaged(path, what, "evaluate again") from None
    return found


def _share(text: str | None) -> float | None:
    """A value in [0, 1]; None for nothing. ValueError for another."""
    if not text:
        return None
    value = float(text)
    if not 0 <= value <= 1 or math.isnan(value):
        raise ValueError(f"{text!r}, expected 0 to 1")
    return value
