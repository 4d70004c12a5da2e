"""What the summary of a label report says of calibrated labels, in Markdown.

Owns the words; calibrated.py has the numbers.
"""

from __future__ import annotations

from typing import Any

from psl.label_report.cells import MAX_PATH, MAX_SHOWN, number
from shards.system.text import markdown


def describe_calibrated(report: dict[str, Any]) -> str:
    """The part about calibrated labels; nothing of others."""
    found = report["calibrated"]
    if found is None:
        return ""
    kinds = ["weak", *(["true"] if report["strong"] is not None else [])]
    names = [f"{kind}_{score}" for kind in kinds for score in ("bce", "brier")]
    rows = sorted(found["per_class"], key=_gain, reverse=True)
    if len(rows) > 2 * MAX_SHOWN:
        rows = rows[:MAX_SHOWN] + rows[-MAX_SHOWN:]
    origin = ""
    if found["before"] is not None:
        origin = f", before and after, from {markdown(found['before'], MAX_PATH)}"
    titles = {"bce": "BCE", "brier": "Brier"}
    heads = [f"{kind} {titles[score]}" for kind, score in (n.split("_") for n in names)]
    lines = [
        f"## Calibrated labels\n\nBy {markdown(str(found['method']), 40)}{origin}. "
        "Lower is better. Weak: the largest label of each clip against its weak label"
        + ("; true: each chunk's against the events." if "true" in kinds else "."),
        "",
        f"| class | a | b | {' | '.join(heads)} |",
        "|---" * (3 + len(heads)) + "|",
    ]
    mean = {"name": "mean of classes", **found["mean"]}
    for row in [mean, *rows]:
        scores = (_before_after(row, name) for name in names)
        curve = "steps" if row.get("how") == "isotonic" else number(row.get("a"), 2)
        cells = [markdown(row["name"]), curve, number(row.get("b"), 2), *scores]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gain(row: dict[str, Any]) -> float:
    """By how much the weak BCE of a class fell; without an earlier one, the later."""
    after = row["after"]["weak_bce"] or 0.0
    return (row["before"]["weak_bce"] or 0.0) - after if "before" in row else after


def _before_after(row: dict[str, Any], name: str) -> str:
    after = number(row["after"][name])
    if "before" not in row:
        return after
    return f"{number(row['before'][name])} \u2192 {after}"
