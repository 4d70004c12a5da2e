"""The tables of real sound, from what real_results.py collects.

Owns the Markdown. Reads no run: the same results give the same lines at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tools.paper.numbers import TABLES, TEACHER
from tools.paper.real_job import ALL, SYSTEMS
from tools.paper.spread import described, interval

PAGE = "real_sound"
"""Name of the page, and of its file in docs/results."""
MEASURES = {
    "clip": ("Clip mAP %", "eval", ("mAP",)),
    "windows": ("Clip mAP %, 2-s windows", "eval_windows", ("mAP",)),
    "segments": ("1-s segment mAP %", "eval", ("segments", "mAP")),
    "segments_windows": (
        "1-s segment mAP %, 2-s windows",
        "eval_windows",
        ("segments", "mAP"),
    ),
    "when": (
        "1-s segment mAP % in positive clips",
        "eval",
        ("segments", "mAP_in_positive_clips"),
    ),
}
"""Title, folder and place in its metrics.json of each column."""
OF_CLIPS = ("clip", "windows")
"""Measures whose scores are stored, for an interval over scenes."""
ORDER = tuple(SYSTEMS)
Seeds = dict[str, dict[str, float]]
"""By seed, the measures in percent."""
Real = dict[str, Any]
"""What real_results.collect gives."""


def system_table(values: Mapping[str, Seeds], rows: Sequence[str]) -> list[str]:
    """A row for each of ``rows`` that was run, a column for each measure."""
    titles = [title for title, *_ in MEASURES.values()]
    lines = [
        f"| System | Paper, AudioSet: mAP % | {' | '.join(titles)} | Seeds |",
        f"|---{'|---' * (len(titles) + 2)}|",
    ]
    for name in rows:
        if name not in values:
            continue
        title = ALL[name].title if name in ALL else "Teacher"
        seeds = values[name].values()
        cells = [described([seed[m] for seed in seeds]) for m in MEASURES]
        count = len(seeds) if name in ALL else "-"
        lines.append(f"| {title} | {_paper(name)} | {' | '.join(cells)} | {count} |")
    return lines


def _paper(system: str) -> str:
    """The paper's mAP on AudioSet, in percent; a dash where it has none."""
    if system == "teacher":
        return f"{TEACHER:.2f}"
    row = TABLES["table2"].rows.get(system)
    return "-" if row is None or row.mean_ap is None else f"{row.mean_ap:.2f}"


def _systems(real: Real) -> list[str]:
    return system_table(real["values"], [*ORDER, "teacher"])


def _variants(real: Real) -> list[str]:
    """PSL-2s and others like it; nothing if none was run."""
    others = [name for name in ALL if name not in ORDER and name in real["values"]]
    return system_table(real["values"], ["psl_2s", *others]) if others else []


def _differences(real: Real) -> list[str]:
    """What each system has more than the one before it, and PSL-2s than the weak one.

    Of the seeds that both have, paired.
    """
    if not real["differences"]:
        return []
    lines = [
        "| Difference | Measure | Mean ± standard deviation | 95 % over seeds | 95 % "
        "over scenes | 95 % over both |",
        "|---|---|---|---|---|---|",
    ]
    for found in real["differences"]:
        gaps, measure = found["gaps"], MEASURES[found["measure"]][0]
        one, two = (ALL[name].title for name in found["pair"])
        spread = f" ± {stdev(gaps):.1f}" if len(gaps) > 1 else ""
        spans = (interval(gaps), found["over_scenes"], found["over_both"])
        cells = " | ".join(_span(span) for span in spans)
        mean = f"{fmean(gaps):+.1f}{spread}"
        lines.append(f"| {one} minus {two} | {measure} | {mean} | {cells} |")
    return lines


def _span(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:+.1f} to {ends[1]:+.1f}"


def _quality(real: Real) -> list[str]:
    """How good the labels are, a row for each length of chunks; nothing if unknown."""
    if not real["quality"]:
        return []
    lines = [
        "| Labels | Chance: AP of chunks % | Weak labels, copied | Weak, none missing "
        "| Teacher | Calibration error, raw | calibrated | Missing weak labels "
        "recovered % (precision %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in real["quality"]:
        cells = [f"{100 * row['ap'][k]:.1f}" for k in row["ap"]]
        cells += [f"{row[k]:.3f}" for k in ("raw_error", "calibrated_error")]
        shares = [100 * (row[key] or 0.0) for key in ("recall", "precision")]
        cells.append(f"{shares[0]:.0f} ({shares[1]:.0f})")
        lines.append(f"| {row['seconds']} s | {' | '.join(cells)} |")
    return lines


REAL_TABLES: dict[str, Callable[[Real], list[str]]] = {
    "systems": _systems,
    "differences": _differences,
    "variants": _variants,
    "events": lambda real: real["events"],
    "quality": _quality,
}
"""Its tables by name; empty where nothing was measured."""


def verdict(values: Mapping[str, Seeds], measure: str) -> str:
    """One sentence: whether the paper's order shows in the means of ``measure``."""
    means = [fmean(seed[measure] for seed in values[n].values()) for n in ORDER]
    found = sorted(ORDER, key=lambda name: means[ORDER.index(name)])
    titles = " < ".join(SYSTEMS[name].title for name in found)
    is_order = means == sorted(means)
    words = "the paper's order" if is_order else "not the paper's order"
    return f"{MEASURES[measure][0]}: {titles}; {words}."


def render(real: Real) -> str:
    """All that was measured, in Markdown, each table with its mark."""
    lines = [
        "Mean ± standard deviation of the seeds (95 % confidence interval of the mean, "
        "Student's t). The paper's column is of another data set and teacher: compare "
        "the order, not the heights.",
        "",
        *_marked("systems", real),
    ]
    if (guess := real["chance"]) is not None:
        lines += [f"A guess has {guess:.1f} within positive clips.", ""]
    if differences := _marked("differences", real):
        lines += [
            "Differences, paired by seed. Over seeds: by Student's t, for other "
            "students on these scenes. Over scenes: by bootstrap, for these students "
            "on other scenes of these recordings. Over both: the interval of `psl "
            "compare`, which does not pair the seeds.",
            "",
            *differences,
        ]
    if all(name in real["values"] for name in ORDER):
        values = real["values"]
        lines += [*(f"- {verdict(values, measure)}" for measure in MEASURES), ""]
    for name, title in (
        ("variants", "Variants of PSL-2s:"),
        ("events", "Events in time, found and measured by psl.events:"),
        (
            "quality",
            "The teacher's labels of the training scenes against the true events:",
        ),
    ):
        if found := _marked(name, real):
            lines += [title, "", *found]
    return "\n".join(lines)


def _marked(name: str, real: Real) -> list[str]:
    """A table below its mark, and a blank line; nothing if it is empty."""
    lines = REAL_TABLES[name](real)
    return [f"<!-- table: {PAGE}.{name} -->", *lines, ""] if lines else []
