"""Everything that a report shows, as plain values for the page.

Owns what is shown of each run and evaluation, and what is said to be missing. Names
come from anyone: they are made visible here and stay text in the page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from psl.evaluation.stored import open_scores
from psl.reporting.confused import confused
from psl.reporting.runs import EVENT_SCORES, Evaluation, EventScores, Run, flatten
from psl.training.config import DataConfig, TrainConfig
from shards import __version__
from shards.system.text import plain

MAX_POINTS = 400
"""Of a curve; longer ones are averaged over as many stretches."""
MAX_PAIRS = 25
"""Pairs of confused classes of an evaluation."""
METRICS = ("mAP", "AUC", "d_prime", "lwlrap")
CURVES = {"loss": "Training loss", "valid_mAP": "Validation mAP"}
_OWN_KEYS = ("run_dir",)
"""Keys that differ between any two runs."""


def facts_of(runs: Sequence[Run], *, command: str) -> dict[str, Any]:
    """The values of the page, but for clips."""
    return {
        "version": 1,
        "psl": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M %Z"),
        "command": plain(command, 4000),
        "runs": [_run(run) for run in runs],
        "config": config_table(runs),
        "curves": {key: _curves(runs, key) for key in CURVES},
        "evaluations": [
            _evaluation(number, run, evaluation)
            for number, run in enumerate(runs)
            for evaluation in run.evaluations
        ],
        "events": [
            {
                "run": number,
                "title": plain(title_of(run, events), 120),
                "values": [_number(events.summary.get(key)) for key in EVENT_SCORES],
                "clips": _number(events.summary.get("num_clips")),
            }
            for number, run in enumerate(runs)
            for events in run.events
        ],
        "per_class": per_class(runs),
        "missing": missing(runs),
    }


def _run(run: Run) -> dict[str, Any]:
    facts = run.facts or {}
    about = ("version", "commit", "python", "torch", "world_size", "started")
    changes = facts.get("changes")
    return {
        "name": plain(run.name),
        "folder": plain(str(run.folder), 300),
        "state": None if run.state is None else [plain(s, 300) for s in run.state],
        "command": None if run.command is None else plain(run.command, 4000),
        "about": [[key, plain(str(facts[key]))] for key in about if facts.get(key)],
        "changes": [plain(_change(change), 300) for change in changes]
        if isinstance(changes, list)
        else [],
        "last_step": max((r["step"] for r in run.records or []), default=None),
    }


def _change(change: Any) -> str:
    """What run.json notes of a key that was changed on the way."""
    if not isinstance(change, dict):
        return str(change)
    return ", ".join(f"{key.replace('_', ' ')} {_text(v)}" for key, v in change.items())


def config_table(runs: Sequence[Run]) -> dict[str, Any]:
    """Keys that differ, and every key.

    Several runs differ from each other, one from the defaults.
    """
    configs = {n: run.config for n, run in enumerate(runs) if run.config is not None}
    keys = list(dict.fromkeys(key for config in configs.values() for key in config))
    rows = [[key, *(_value(c, key) for c in configs.values())] for key in keys]
    differing = [row for row in rows if row[0] not in _OWN_KEYS and _differs(row)]
    against = "each other"
    if len(configs) == 1:
        against, defaults = "the defaults", _defaults()
        differing = [
            [row[0], _value(defaults, row[0]), row[1]]
            for row in rows
            if row[0] not in _OWN_KEYS and row[1] != _value(defaults, row[0])
        ]
    return {
        "runs": list(configs),
        "against": against,
        "differing": [[plain(cell, 300) for cell in row] for row in differing],
        "all": [[plain(cell, 300) for cell in row] for row in rows],
    }


def _differs(row: list[str]) -> bool:
    return len(set(row[1:])) > 1


def _value(config: dict[str, Any], key: str) -> str:
    """As it is written in a configuration; a dash for a key that is not there."""
    if key not in config:
        return "–"
    return _text(config[key])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _defaults() -> dict[str, Any]:
    config = TrainConfig(run_dir="", data=DataConfig(audio=[], valid=""))
    found: dict[str, Any] = TypeAdapter(TrainConfig).dump_python(config)
    required = ("data.audio", "data.valid")
    return {key: v for key, v in flatten(found) if key not in required}


def _curves(runs: Sequence[Run], key: str) -> list[dict[str, Any]]:
    found = []
    for number, run in enumerate(runs):
        points = [(r["step"], r[key]) for r in run.records or [] if key in r]
        if points:
            steps, values = zip(*shortened(points, MAX_POINTS), strict=True)
            found.append({"run": number, "x": steps, "y": values})
    return found


def shortened(
    points: Sequence[tuple[float, float]], most: int
) -> list[tuple[float, float]]:
    """At most ``most`` points: means of steps and values over equal stretches."""
    size = -(-len(points) // most)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    means = [
        [sum(column) / len(part) for column in zip(*part, strict=True)]
        for part in parts
    ]
    return [(step, float(f"{value:.6g}")) for step, value in means]


def title_of(run: Run, evaluation: Evaluation | EventScores) -> str:
    """The name of an evaluation among those of several runs."""
    return f"{run.name} · {evaluation.name}" if evaluation.name else run.name


def _evaluation(number: int, run: Run, evaluation: Evaluation) -> dict[str, Any]:
    summary = evaluation.summary
    intervals, segments = (_mapping(summary, k) for k in ("intervals", "segments"))
    return {
        "run": number,
        "title": plain(title_of(run, evaluation), 120),
        "folder": plain(str(evaluation.folder), 300),
        "labels": plain(str(summary.get("labels", "not recorded")), 300),
        "clips": _number(summary.get("num_clips")),
        "classes": _number(summary.get("num_classes_with_positives")),
        "same_clips": plain(str(summary.get("sha256_of_clips", ""))),
        "values": {
            key: _number(summary.get(key))
            for key in ("mAP", "AUC", "d_prime", "lwlrap")
        },
        "intervals": {
            key: _interval(intervals.get(key))
            for key in (intervals if isinstance(intervals, dict) else {})
            if isinstance(intervals, dict)
        },
        "segment_mAP": _number(segments.get("mAP")),
        "confused": _confused(evaluation),
    }


def _mapping(summary: dict[str, Any], key: str) -> dict[str, Any]:
    found = summary.get(key)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e300 else None


def _interval(value: Any) -> list[float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    ends = [_number(end) for end in value]
    return None if None in ends else ends  # type: ignore[return-value]


def _confused(evaluation: Evaluation) -> list[list[Any]] | None:
    if evaluation.scores is None:
        return None
    mids, names = evaluation.mids, names_of(evaluation)
    with open_scores(evaluation.scores) as stored:
        pairs = confused(stored.labels, stored.blocks(), most=MAX_PAIRS)
    return [
        [
            plain(names[mids[p.label]]),
            plain(names[mids[p.taken_for]]),
            round(p.score, 4),
            round(p.elsewhere, 4),
            p.num_clips,
        ]
        for p in pairs
    ]


def names_of(evaluation: Evaluation) -> dict[str, str]:
    """Display names of the classes of an evaluation by mid; the mid if unknown."""
    found = {c.mid: c.name for c in evaluation.classes or ()}
    return {mid: found.get(mid, mid) for mid in (*found, *evaluation.mids)}


def per_class(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each class: its clips, and AP with interval in every evaluation."""
    every = [e for run in runs for e in run.evaluations]
    rows: dict[str, dict[str, Any]] = {}
    for number, evaluation in enumerate(every):
        for c in evaluation.classes or ():
            row = rows.setdefault(
                c.mid,
                {
                    "mid": plain(c.mid),
                    "name": plain(c.name),
                    "clips": c.num_positives,
                    "ap": [None] * len(every),
                },
            )
            if c.ap is not None:
                row["ap"][number] = [c.ap, c.low, c.high]
    return list(rows.values())


def missing(runs: Sequence[Run]) -> list[str]:
    """What a reader could look for in vain, and what makes it."""
    lines = []
    for run in runs:
        name = plain(run.name)
        if run.config is None and run.records is None:
            lines.append(f"{name}: an evaluation only; its run was not named")
        elif run.config is None or run.facts is None:
            lines.append(f"{name}: no record of its configuration or command")
        if run.config is not None and not run.records:
            lines.append(f"{name}: no step was recorded yet")
        if run.config is not None and not run.evaluations:
            lines.append(
                f"{name}: not evaluated; psl evaluate checkpoint={run.folder} "
                f"audio=DATASET out={run.folder}/eval"
            )
        for evaluation in run.evaluations:
            title = plain(title_of(run, evaluation), 120)
            if evaluation.classes is None:
                lines.append(f"{title}: no per_class.csv; evaluate again")
            if evaluation.scores is None:
                lines.append(
                    f"{title}: no scores.npz, so no confused classes and no sample "
                    "clips; evaluate again with store_scores=true"
                )
            if not evaluation.summary.get("intervals"):
                lines.append(f"{title}: evaluated without intervals (bootstrap=0)")
    return lines
