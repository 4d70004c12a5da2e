"""The metrics of several seeds, summarised and set next to the paper's.

Owns mean and spread, and the Markdown of a table of the paper. Draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from psl.weights.result import RESULT_NAME
from tools.paper.numbers import TABLES
from tools.results.systems import layout_of, systems_table
from tools.results.tables import markdown

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


def with_dev(summary: Summary, folders: Mapping[str, Sequence[Path]]) -> Summary:
    """The same with the mAP in percent on dev of each seed, of its best checkpoint.

    folders: the runs of each system, by seed. Only where all of them have a result.
    """
    found = {}
    for system, runs in folders.items():
        paths = [run / RESULT_NAME for run in runs]
        if system in summary and paths and all(path.exists() for path in paths):
            texts = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
            values = [round(100 * result["valid_mAP"], 2) for result in texts]
            found[system] = {"dev": values}
    return {name: {**of, **found.get(name, {})} for name, of in summary.items()}


def paper_table(table: str, summary: Summary, where: str) -> str:
    """The paper's ``table`` with its numbers next to those of ``summary``, in Markdown.

    A row that is not in ``summary`` says so. ``where``: what ours were measured on.
    """
    of_paper = TABLES[table]
    has_teacher = "teacher" in summary
    layout = layout_of(table, with_teacher=has_teacher)
    lines = [
        f"{of_paper.title}. {of_paper.note}",
        f"Here: {where}; mean ± standard deviation of the seeds.",
        "",
    ]
    lines += markdown(systems_table(layout, lambda name: summary.get(name, {})))
    if has_teacher:
        lines += ["", "(1) According to its checkpoint's file name."]
    return "\n".join([*lines, ""])
