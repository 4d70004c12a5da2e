"""What an evaluation leaves behind: metrics.json and per_class.csv.

Owns their forms.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from psl.evaluation.config import EvaluateConfig
from psl.evaluation.metrics import Metrics
from psl.evaluation.segments import SegmentMetrics
from shards.format.classes import Classes
from shards.system.files import write_atomic


def summarise(
    config: EvaluateConfig, metrics: Metrics, in_time: SegmentMetrics | None
) -> dict[str, Any]:
    """The content of metrics.json."""
    summary = metrics.summary()
    if config.window_seconds is not None:
        summary["window_seconds"] = config.window_seconds
        summary["hop_seconds"] = config.hop_seconds or config.window_seconds
    if in_time is not None:
        summary["segments"] = in_time.summary()
    return summary


def write_results(
    out: str | Path,
    summary: dict[str, Any],
    metrics: Metrics,
    in_time: SegmentMetrics | None,
    classes: Classes,
) -> None:
    """metrics.json with the scalars, per_class.csv with AP by class, best first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = ["index", "mid", "display_name", "num_positives", "ap"]
    columns = [metrics.ap]
    if in_time is not None:
        header += ["segment_ap", "segment_ap_in_positive_clips"]
        columns += [in_time.ap, in_time.ap_in_clip]
    writer.writerow(header)
    for c in np.argsort(-np.nan_to_num(metrics.ap, nan=-1.0), kind="stable"):
        values = [_shown(column[c]) for column in columns]
        name = classes.names[c]
        writer.writerow([c, classes.mids[c], name, metrics.num_positives[c], *values])
    write_atomic(Path(out, "per_class.csv"), buffer.getvalue())
    text = json.dumps(summary, indent=1, allow_nan=False)
    write_atomic(Path(out, "metrics.json"), text + "\n")


def _shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"
