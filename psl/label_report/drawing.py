"""A study of labels -> the pictures of a report.

Owns which pictures there are, and the message where matplotlib is missing; pictures.py
draws them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from psl.label_report.clip import view_clip
from psl.label_report.report import Study
from shards.system.extras import pip_install


def pictures() -> ModuleType:
    """pictures.py; ValueError where matplotlib, which it needs, is missing."""
    try:
        return importlib.import_module("psl.label_report.pictures")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ValueError(
            f"matplotlib is not installed; {pip_install('report')}, or ask for "
            "the numbers alone with --no-pictures"
        ) from None


def draw_report(study: Study, report: dict[str, Any], out: Path) -> None:
    """clip.png; with events calibration.png, and recovery.png if any is missing."""
    draw = pictures()
    if study.clip is not None:
        view = view_clip(
            *(study.audio, study.labels, study.chunking, study.clip),
            events=study.truth.events if study.truth else None,
            threshold=study.settings.threshold,
            why=_why(study),
        )
        draw.save(out / "clip.png", draw.draw_clip, view)
    if study.truth is not None:
        draw.save(out / "calibration.png", draw.draw_calibration, report)
    if study.truth is not None and report["recovery"]["missing"]:
        draw.save(out / "recovery.png", draw.draw_recovery, report)


def _why(study: Study) -> str:
    """Why this clip is drawn."""
    if study.settings.clip is not None:
        return "chosen by hand"
    if study.truth is not None:
        return f"corrects most of its weak labels at {study.settings.threshold:g}"
    return "most change over time"
