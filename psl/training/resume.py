"""Resume a run from its newest checkpoint.

Owns what is read from the run folder, by rank 0 for all ranks, and which keys of the
configuration may differ from those the run was begun with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor

from psl.config import parse, to_yaml
from psl.config_values import read_yaml
from psl.distributed import collectives
from psl.training.config import TrainConfig
from psl.training.log import CONFIG_NAME
from psl.training.schedule import Schedule
from psl.weights.checkpoint import (
    Checkpoint,
    TrainingState,
    load_newest,
    load_optimizer,
    load_trained,
)

Rule = Literal["free", "length", "consent", "fixed"]
ON_RESUME: dict[str, Rule] = {
    "run_dir": "free",
    "data": "free",  # what it holds is in the fingerprint of the plan
    "model": "fixed",
    "start": "fixed",
    "optim": "consent",
    "loader": "free",
    "augment": "consent",
    "global_batch_size": "fixed",
    "batch_seconds": "free",  # another way to say global_batch_size
    "epochs": "length",
    "patience": "free",
    "keep_best": "free",
    "average_best": "free",
    "precision": "consent",
    "arithmetic": "consent",
    "strategy": "free",
    "bucket_mb": "free",
    "seed": "fixed",
    "log_every": "free",
    "tracker": "free",
    "tracker_project": "free",
    "board": "free",
    "save_every": "free",
    "valid_every": "consent",
    "accumulation_steps": "free",
    "nonfinite": "free",
    "max_skipped_steps": "free",
    "compile": "free",
    "cuda_graph": "free",
    "profile": "free",
    "peak_tflops": "free",
    "sync_batch_norm": "consent",
    "attempt": "free",
    "accept_changes": "free",
}
"""What may happen to each key of TrainConfig, and the keys below it, on a resume.

free: may change. The losses stay as they would have been, or change no more than
another number of processes changes them; or only when the run ends is decided by it.
consent: what follows differs from the run as it was begun; accept_changes must name it.
length: free under a constant learning rate, which knows no end; else as consent.
fixed: refused; it would be another run.
"""
CHANGEABLE: tuple[Rule, ...] = ("consent", "length")
"""Rules under which accept_changes matters."""


@dataclass(frozen=True)
class Change:
    """A key that differs from the run so far."""

    key: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Saved:
    """What a run resumes from; the same on all ranks."""

    training: TrainingState
    changes: list[Change]
    """What the user consented to."""
    trained: dict[str, Tensor]
    """Parameters and buffers to train on."""
    used: dict[str, Tensor]
    """Parameters and buffers to validate: the moving average, if there is one."""
    optimizer: dict[str, Tensor]
    """Tensors by ``<parameter number>.<name>``; empty if the run is over."""


def read_saved(schedule: Schedule, fingerprint: str) -> Saved | None:
    """The newest checkpoint of the run; None if there is none. Collective.

    Raises ValueError if it does not belong to this configuration or this data (of
    ``fingerprint``), and ShardError if it is damaged.
    """
    found: list[tuple[Checkpoint, dict[str, Tensor], dict[str, Tensor]]] = []

    def read() -> tuple[TrainingState, list[Change]] | None:
        config = schedule.config
        checkpoint = load_newest(config.run_dir)
        if checkpoint is None:
            return None
        changes = accepted_changes(config)
        _check_plan(checkpoint, fingerprint)
        over = schedule.is_over(checkpoint.training)
        optimizer = {} if over else load_optimizer(checkpoint)
        found.append((checkpoint, load_trained(checkpoint), optimizer))
        return checkpoint.training, changes

    told = collectives.from_main(read)
    if told is None:
        return None
    used, trained, optimizer = {}, {}, {}
    if found:  # on rank 0
        used, trained, optimizer = found[0][0].weights, *found[0][1:]
    return Saved(
        *told,
        trained=collectives.tensors_from_main(trained),
        used=collectives.tensors_from_main(used),
        optimizer=collectives.tensors_from_main(optimizer),
    )


def _check_plan(checkpoint: Checkpoint, fingerprint: str) -> None:
    saved = checkpoint.training.plan_fingerprint
    if saved != fingerprint:
        raise ValueError(
            f"{checkpoint.folder}: was trained on other data or in another order "
            f"(plan {saved[:12]}, now {fingerprint[:12]}); restore the data, or choose "
            "another run_dir"
        )


def accepted_changes(config: TrainConfig) -> list[Change]:
    """The keys that differ from those in the run folder, and need and have consent.

    Raises ValueError for a key that may not differ, or differs without consent.
    """
    path = Path(config.run_dir, CONFIG_NAME)
    if not path.exists():
        raise ValueError(
            f"{path}: not found, but the run has checkpoints; put it back, or choose "
            f"another run_dir, for which start={config.run_dir} takes these weights"
        )
    # parsed, so that a key that is newer than the run has its default
    before = parse(TrainConfig, read_yaml(path, TrainConfig), where=str(path))
    changes = [c for c in _changes(before, config) if _rule(c.key, config) != "free"]
    for change in changes:
        rule = _rule(change.key, config)
        if rule == "fixed" or not _is_named(change.key, config.accept_changes):
            raise ValueError(f"{path}: {_refusal(change, rule, config.run_dir)}")
    return changes


def _changes(before: TrainConfig, now: TrainConfig) -> Iterator[Change]:
    """Every key, dotted, whose value differs."""
    old, new = dict(_leaves(_plain(before))), dict(_leaves(_plain(now)))
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            yield Change(key, old.get(key), new.get(key))


def _plain(config: TrainConfig) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(to_yaml(config))
    return values


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _rule(key: str, config: TrainConfig) -> Rule:
    rule = ON_RESUME[key.partition(".")[0]]
    if rule == "length":
        return "free" if config.optim.schedule == "constant" else "consent"
    return rule


def _is_named(key: str, names: list[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _refusal(change: Change, rule: Rule, run_dir: str) -> str:
    remedy = f"choose another run_dir, for which start={run_dir} takes these weights"
    if rule == "consent":
        effect = "the rest of the run would differ from its beginning"
        if change.key == "epochs":
            effect = "the learning rate would follow another schedule from here on"
        remedy = f"{effect}: if you want that, add accept_changes=[{change.key}]"
        remedy += "; else resume as before"
    return (
        f"this run was begun with {change.key} = {change.before}, not {change.now}; "
        + remedy
    )


def shared_facts(config: TrainConfig) -> dict[str, str]:
    """The keys that all ranks must agree on; paths may differ between machines."""
    own = ("run_dir", "data", "loader", "attempt")
    return {k: json.dumps(v) for k, v in _plain(config).items() if k not in own}
