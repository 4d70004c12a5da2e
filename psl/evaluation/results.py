"""What an evaluation leaves behind: metrics.json and per_class.csv.

Owns their forms; stored.py has scores.npz.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psl.evaluation.config import EvaluateConfig
from psl.evaluation.measured import Measured
from psl.evaluation.official import fingerprint
from psl.evaluation.references import References
from psl.evaluation.segments import SegmentMetrics
from shards.format.classes import Classes
from shards.format.index import Index
from shards.system.files import write_atomic

VERSION = 2
"""Of metrics.json. 1 had no version, intervals or clips."""


def check_out(out: str | Path) -> Path:
    """``out``; ValueError if it is a file, before anything is scored for it."""
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"{out}: a file, expected a folder for the results; choose another out"
        )
    return path


def summarise(
    config: EvaluateConfig,
    index: Index,
    measured: Measured,
    references: References,
    others: Mapping[str, Measured],
    in_time: SegmentMetrics | None,
) -> dict[str, Any]:
    """The content of metrics.json; ``others`` are against ``references.others``."""
    summary = {"version": VERSION, **measured.summary(), "labels": config.audio}
    summary["sha256_of_clips"] = fingerprint(index.table.key.tolist())
    if references.coverage is not None and config.official is not None:
        summary["coverage"] = references.coverage.summary(config.official)
    for name, other in others.items():
        summary[name] = {
            **other.summary(),
            "labels": references.others[name].source,
            "clips_elsewhere": references.others[name].num_elsewhere,
        }
    if config.window_seconds is not None:
        summary["window_seconds"] = config.window_seconds
        summary["hop_seconds"] = config.hop_seconds or config.window_seconds
    if in_time is not None:
        summary["segments"] = in_time.summary()
    return summary


def write_results(
    out: str | Path,
    summary: dict[str, Any],
    classes: Classes,
    measured: Measured,
    others: Mapping[str, Measured],
    in_time: SegmentMetrics | None,
) -> None:
    """metrics.json with the scalars, per_class.csv with AP by class, best first."""
    metrics = measured.metrics
    columns = {
        "ap": metrics.ap,
        "ap_low": measured.ap_interval[:, 0],
        "ap_high": measured.ap_interval[:, 1],
    }
    for name, other in others.items():
        columns[f"{name}_num_positives"] = other.metrics.num_positives
        columns[f"{name}_ap"] = other.metrics.ap
    if in_time is not None:
        columns["segment_ap"] = in_time.ap
        columns["segment_ap_in_positive_clips"] = in_time.ap_in_clip
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["index", "mid", "display_name", "num_positives", *columns])
    for c in np.argsort(-np.nan_to_num(metrics.ap, nan=-1.0), kind="stable"):
        values = [_shown(column[c]) for column in columns.values()]
        name = classes.names[c]
        writer.writerow([c, classes.mids[c], name, metrics.num_positives[c], *values])
    write_atomic(Path(out, "per_class.csv"), buffer.getvalue())
    text = json.dumps(summary, indent=1, allow_nan=False)
    write_atomic(Path(out, "metrics.json"), text + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, np.integer):
        return str(value)
    return "" if np.isnan(value) else f"{value:.6f}"
