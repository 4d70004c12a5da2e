"""The metrics of several seeds, summarised and set next to the paper's.

Owns mean and spread, and the Markdown of a table of the paper. Draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tools.paper.numbers import TEACHER, Table

Summary = dict[str, dict[str, Any]]


def summarise(metrics: Mapping[str, Sequence[str]]) -> Summary:
    """MAP in percent of each seed, mean, sample std; means of AUC and d'.

    metrics: by system, the text of each seed's metrics.json.
    """
    summary = {}
    for system, texts in metrics.items():
        seeds = [json.loads(text) for text in texts]
        values = [100 * scalars["mAP"] for scalars in seeds]
        summary[system] = {
            "values": [round(value, 2) for value in values],
            "mean": round(fmean(values), 2),
            "std": round(stdev(values), 2) if len(values) > 1 else None,
            **{k: round(fmean(s[k] for s in seeds), 4) for k in ("AUC", "d_prime")},
        }
    return summary


def mean_and_std(system: dict[str, Any]) -> str:
    """``12.34 ± 0.56``, or the mean alone if there is one seed."""
    std = "" if system["std"] is None else f" ± {system['std']:.2f}"
    return f"{system['mean']:.2f}{std}"


def paper_table(table: Table, summary: Summary, where: str) -> str:
    """``table`` with the paper's numbers next to those of ``summary``, in Markdown.

    A row that is not in ``summary`` says so. ``where``: what ours were measured on.
    """
    lines = [
        f"{table.title}. {table.note}",
        f"Here: {where}; mean ± standard deviation of the seeds.",
        "",
        "| System | Paper: mAP % | Paper: d' | Here: mAP % | AUC | d' | Seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in table.rows.items():
        paper = f"{_or_dash(row.mean_ap, 2)} | {_or_dash(row.d_prime, 3)}"
        lines.append(f"| {row.title} | {paper} | {_here(summary.get(name))} |")
    if "teacher" in summary:
        ours = _here(summary["teacher"])
        lines.append(f"| Teacher | {TEACHER:.2f} (1) | - | {ours} |")
        lines += ["", "(1) According to its checkpoint's file name."]
    return "\n".join([*lines, ""])


def _here(system: dict[str, Any] | None) -> str:
    """The columns of what was measured."""
    if system is None:
        return "not run | | | "
    scalars = f"{system['AUC']:.3f} | {system['d_prime']:.2f}"
    return f"{mean_and_std(system)} | {scalars} | {len(system['values'])}"


def _or_dash(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
