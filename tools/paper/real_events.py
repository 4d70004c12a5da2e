"""What each system knows about when: PSDS and F1 of events, by psl.events.

Owns these steps and their table. Thresholds and filters are fitted on dev, class by
class; the teacher's are not, and PSDS needs none.
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.paper.real_job import ALL, SYSTEMS, RealJob
from tools.paper.spread import described
from tools.paper.steps import Step, python

FORMS = {
    "events": ("Frames", ()),
    "events_fine": (
        "1-s windows, 0.25 s apart",
        ("window_seconds=1", "hop_seconds=0.25"),
    ),
}
"""Folder in the run, and what is scored: its name, and the words for it."""
MEASURES = {
    "psds1": "PSDS1 %",
    "psds2": "PSDS2 %",
    "segment_f1_macro": "1-s segment F1 %",
    "event_f1_macro": "Event F1 %",
}
"""Title of each column, by its name in metrics.json."""
OF_RULES = ("segment_f1_macro", "event_f1_macro")
"""Measures of events, which need fitted thresholds."""


def student_steps(job: RealJob, name: str, run_dir: Path) -> list[Step]:
    """Find and measure a student's events, by rules fitted on dev."""
    fit = (f"fit_audio={job.shards('dev')}", f"fit_strong={job.data}/strong.csv")
    return [
        _step(job, name, run_dir, "eval", run_dir / folder, (*words, *fit))
        for folder, (_, words) in FORMS.items()
    ]


def teacher_step(job: RealJob) -> Step:
    """The same of the teacher, in windows, as its own frames are not meant for it."""
    folder = "events_fine"
    words = (*FORMS[folder][1], "classes=shared")
    out = job.root / "teacher" / folder
    return _step(job, "teacher", job.teacher, "eval_for_teacher", out, words)


def _step(
    job: RealJob,
    name: str,
    checkpoint: Path | str,
    audio: str,
    out: Path,
    words: tuple[str, ...],
) -> Step:
    command = python(
        *("-m", "psl.events", f"checkpoint={checkpoint}", f"out={out}"),
        *(f"audio={job.shards(audio)}", f"strong={job.data}/strong.csv", *words),
    )
    return Step(f"events of {name}, {out.name}", command, out / "metrics.json")


def read_events(folder: Path) -> dict[str, float] | None:
    """The measures in percent and s; None if there are none."""
    path = folder / "metrics.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: 100 * found[name] for name in MEASURES}


def events_table(job: RealJob) -> list[str]:
    """A row for each system and form; nothing if no events were measured."""
    lines = [
        f"| System | Scored | {' | '.join(MEASURES.values())} | Seeds |",
        f"|---{'|---' * (len(MEASURES) + 2)}|",
    ]
    for folder, (form, _) in FORMS.items():
        for name in SYSTEMS:
            runs = sorted(job.root.glob(f"seed*/{name}/{folder}"))
            found = [values for run in runs if (values := read_events(run))]
            if found:
                cells = [described([values[m] for values in found]) for m in MEASURES]
                row = f"{ALL[name].title} | {form} | {' | '.join(cells)}"
                lines.append(f"| {row} | {len(found)} |")
        teacher = read_events(job.root / "teacher" / folder)
        if teacher is not None:
            cells = [
                "-" if name in OF_RULES else f"{teacher[name]:.1f}" for name in MEASURES
            ]
            lines.append(f"| Teacher | {form} | {' | '.join(cells)} | - |")
    return lines if len(lines) > 2 else []
