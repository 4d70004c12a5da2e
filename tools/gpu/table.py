"""What tools/gpu/check.py found, as Markdown.

Owns the two tables: what came of each step, and what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 300
"""Characters of a step's figures, or of the reason why there are none."""


def report(content: Mapping[str, Any]) -> str:
    """The page of a whole report, as tools/gpu/check.py writes it as JSON."""
    machine, versions = content["machine"], content["versions"]
    names = [gpu["name"] for gpu in machine["gpus"]] or ["no GPU"]
    known = ", ".join(f"{name} {v}" for name, v in versions.items() if v is not None)
    lines = [
        f"{', '.join(names)}; {content['date']}; `{content['command']}`.",
        f"Driver {machine['driver']}, CUDA {machine['cuda']}, cuDNN "
        f"{machine['cudnn']}, {known}.",
        "",
        "| step | outcome | s | what came of it |",
        "|---|---|---|---|",
    ]
    for name, step in content["steps"].items():
        told = step.get("reason") or _brief(step["figures"])
        told = " ".join(told.replace("|", "/").split())
        told = told if len(told) <= SHOWN else f"{told[:SHOWN]} ..."
        lines.append(f"| {name} | {step['outcome']} | {step['seconds']:.0f} | {told} |")
    measured = [row for item in content["steps"].items() for row in _rows(*item)]
    if measured:
        lines += ["", "| measured | median | range | |", "|---|---|---|---|", *measured]
    return "\n".join(lines) + "\n"


def _brief(figures: Mapping[str, Any]) -> str:
    """All numbers and words that are not in the table of what was measured."""
    return ", ".join(f"{path} {_word(value)}" for path, value in _plain(figures))


def _plain(figures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    if "median" in figures:
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _plain(value, f"{path}{name} ")
        elif not isinstance(value, list):
            yield f"{path}{name}", value


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(name: str, step: Mapping[str, Any]) -> Iterator[str]:
    for path, found in _spreads(step.get("figures", {}), name):
        yield (
            f"| {path} | {_number(found['median'])} | {_number(found['low'])} to "
            f"{_number(found['high'])} | {found['unit']} |"
        )


def _spreads(figures: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each median with its range, and where it was in the figures."""
    if not isinstance(figures, dict):
        return
    if "median" in figures:
        yield path, figures
        return
    for name, value in figures.items():
        yield from _spreads(value, f"{path}, {name}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
