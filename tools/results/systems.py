"""Tables of systems: which columns and rows each has, and how numbers are written.

Owns the layouts. The numbers are summaries of tools.paper.results, by system.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.paper.numbers import TABLES, TEACHER
from tools.results.stored import Cells

System = dict[str, Any]
"""What tools.paper.results.summarise gives of one; empty if it was not run."""
Look = Callable[[str], System]
"""A system by its place: NAME, or FILE/NAME for one of another file."""
Cell = Callable[[str, Look], str]
"""The text of a cell, from the place of its row's system."""


def mean_and_std(system: System) -> str:
    """``12.34 ± 0.56``, or the mean alone if there is one seed."""
    if not system:
        return "not run"
    std = "" if system["std"] is None else f" ± {system['std']:.2f}"
    return f"{system['mean']:.2f}{std}"


def _published(table: str) -> Cell:
    """MAP in the paper's ``table``, in percent."""

    def cell(place: str, look: Look) -> str:
        if place == "teacher":
            return f"{TEACHER:.2f} (1)"
        value = TABLES[table].rows[place].mean_ap
        return "-" if value is None else f"{value:.2f}"

    return cell


def _published_d_prime(table: str) -> Cell:
    def cell(place: str, look: Look) -> str:
        row = TABLES[table].rows.get(place)
        return "-" if row is None or row.d_prime is None else f"{row.d_prime:.3f}"

    return cell


def _mean_and_std(place: str, look: Look) -> str:
    return mean_and_std(look(place))


def _seed(number: int) -> Cell:
    def cell(place: str, look: Look) -> str:
        values = look(place).get("values", [])
        return f"{values[number]:.2f}" if number < len(values) else ""

    return cell


def _of_seeds(key: str) -> Cell:
    """``mean`` or ``std``; nothing of a single seed."""

    def cell(place: str, look: Look) -> str:
        system = look(place)
        return "" if system.get("std") is None else f"{system[key]:.2f}"

    return cell


def _scalar(key: str, digits: int) -> Cell:
    def cell(place: str, look: Look) -> str:
        value = look(place).get(key)
        return "" if value is None else f"{value:.{digits}f}"

    return cell


def _listed(key: str, file: str = "") -> Cell:
    """Values of all seeds, of the system itself or of its namesake in ``file``."""

    def cell(place: str, look: Look) -> str:
        system = look(f"{file}/{place}" if file else place)
        return ", ".join(f"{value:.2f}" for value in system.get(key, []))

    return cell


def _num_seeds(place: str, look: Look) -> str:
    return str(len(look(place)["values"])) if look(place) else ""


def _text(texts: dict[str, str]) -> Cell:
    return lambda place, look: texts.get(place, "")


def _gain(over: str) -> Cell:
    """How much more than the system at ``over``; nothing of a single seed."""

    def cell(place: str, look: Look) -> str:
        system = look(place)
        if place == over or system.get("std") is None:
            return ""
        return f"+ {100 * (system['mean'] / look(over)['mean'] - 1):.1f} %"

    return cell


def _bold(cell: Cell, row: str) -> Cell:
    """The same, in bold in one row."""
    return lambda place, look: (
        f"**{cell(place, look)}**" if place == row else cell(place, look)
    )


@dataclass(frozen=True)
class Layout:
    """A table of systems."""

    head: str
    """Title of the first column."""
    rows: dict[str, str]
    """The places of the systems, and what the first column calls them."""
    columns: dict[str, Cell]
    """The other columns, by title."""


def layout_of(table: str, *, with_teacher: bool) -> Layout:
    """What tools.paper.reproduce prints of the paper's ``table``."""
    rows = {name: row.title for name, row in TABLES[table].rows.items()}
    return Layout(
        head="System",
        rows=rows | ({"teacher": "Teacher"} if with_teacher else {}),
        columns={
            "Paper: mAP %": _published(table),
            "Paper: d'": _published_d_prime(table),
            "Here: mAP %": _mean_and_std,
            "AUC": _scalar("AUC", 3),
            "d'": _scalar("d_prime", 2),
            "Seeds": _num_seeds,
        },
    )


_STUDENTS = {
    name: TABLES["table2"].rows[name].title
    for name in ("baseline", "psl_10s", "psl_5s", "psl_2s")
}
_SCALARS: dict[str, Cell] = {"AUC": _scalar("AUC", 3), "d'": _scalar("d_prime", 2)}
PAPER = Layout(
    "System",
    {**_STUDENTS, "teacher": "Teacher"},
    {
        "Paper, AudioSet: mAP %": _published("table2"),
        "Ours, mini set: mAP %": _mean_and_std,
        **_SCALARS,
    },
)
"""Table 2 of the paper next to the mini set's."""
_BEST = {
    "mini_table/psl_2s": "PSL-2s",
    "windows": "windows",
    "best": "windows, then whole clips (**best**)",
    "mini_table/teacher": "the teacher, trained on 2800 clips",
}
_SHOWN = {"mini_table/psl_2s": "160 000", "windows": "149 600", "best": "201 600"}
"""Seconds of audio: examples times their length."""
LAYOUTS = {
    "mini_table.paper": PAPER,
    "mini_table.seeds": Layout(
        "System",
        {**_STUDENTS, "teacher": "Teacher (trained once)"},
        {
            **{f"seed {number}": _seed(number) for number in range(3)},
            **{key: _of_seeds(key) for key in ("mean", "std")},
        },
    ),
    "table2.others": Layout(
        "System",
        {
            "cnn14": "CNN14, an eighth of the width",
            "efficientnet_b0": "EfficientNet-B0, half the width and depth",
            "efficientnet_b2": "EfficientNet-B2, half the width and depth",
            "resnet50": "ResNet-50, a quarter of the width, half the depth",
            "ast": "AST, 3 layers of 96",
        },
        {
            "Paper, AudioSet: mAP %": _published("table2"),
            "Mini set: mAP %": _mean_and_std,
            **_SCALARS,
            "Seeds 0, 1, 2": _listed("values"),
        },
    ),
    "table3.half_weak": Layout(
        "System",
        {name: row.title for name, row in TABLES["table3"].rows.items()},
        {
            "Mini set: mAP %": _mean_and_std,
            "Seeds 0, 1, 2": _listed("values"),
            **_SCALARS,
            "the same seeds on pseudo labels alone": _listed("values", "mini_table"),
        },
    ),
    "best.recipes": Layout(
        "Recipe",
        _BEST,
        {
            "Seconds of audio shown": _text(_SHOWN),
            "Dev, seeds 0, 1, 2": _listed("dev"),
            "Evaluation, seeds 0, 1, 2": _listed("values"),
            "Mean ± std": _bold(
                lambda place, look: (
                    mean_and_std(look(place))
                    if look(place).get("std") is not None
                    else ""
                ),
                "best",
            ),
            "Relative to PSL-2s": _bold(_gain("mini_table/psl_2s"), "best"),
        },
    ),
    "esc10.starts": Layout(
        "Start, then 20 epochs of 240 clips of ESC-10",
        {
            "fresh": "fresh weights",
            "student": "the mini set's student of 400 clips (`seed0/best_windows`)",
            "teacher_start": "the mini set's teacher of 2800 clips",
        },
        {"mAP %, seeds 0, 1, 2": _listed("values"), "Mean ± std": _mean_and_std},
    ),
}
"""The tables of systems in the pages, by the name that stands above them."""


def systems_table(layout: Layout, look: Look) -> Cells:
    """The cells of a table."""
    rows = [
        [title, *(cell(place, look) for cell in layout.columns.values())]
        for place, title in layout.rows.items()
    ]
    return {"columns": [layout.head, *layout.columns], "rows": rows}
