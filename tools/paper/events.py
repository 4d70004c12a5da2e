"""What each system knows about when: PSDS, F1 and segment mAP, by psl.events.

Owns these steps and their table, for any set. Thresholds and filters are fitted on dev,
class by class; PSDS needs none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ShardError
from tools.paper.spread import described
from tools.paper.steps import Step, python


@dataclass(frozen=True)
class Form:
    """A way of scoring a clip over time."""

    title: str
    words: tuple[str, ...] = ()
    """Keys of psl.events."""


FORMS = {
    "events": Form("Frames"),
    "events_fine": Form(
        "1-s windows, 0.25 s apart", ("window_seconds=1", "hop_seconds=0.25")
    ),
}
"""By the folder in a run."""
MEASURES = {
    "psds1": "PSDS1 %",
    "psds2": "PSDS2 %",
    "segment_mAP": "1-s segment mAP %",
    "segment_f1_macro": "1-s segment F1 %",
    "event_f1_macro": "Event F1 %",
}
"""Title of each column, by its name in metrics.json."""
OF_RULES = ("segment_f1_macro", "event_f1_macro")
"""Measures of events, which need fitted thresholds."""
Values = Mapping[str, float]
"""Measures in percent."""


@dataclass(frozen=True)
class EventsJob:
    """Whose events are measured on what."""

    root: Path
    """Folder of the runs: seedN/SYSTEM."""
    audio: Path
    """The clips to measure."""
    dev: Path
    """The clips to fit rules to."""
    strong: Path
    """CSV of the true events of both."""
    titles: Mapping[str, str]
    """Of each system, in the order of the table."""


def student_steps(job: EventsJob, name: str) -> list[Step]:
    """Find and measure the events of student ``name``, such as seed0/psl_2s."""
    run_dir = job.root / name
    return [
        events_step(job, name, run_dir, run_dir / folder, form)
        for folder, form in FORMS.items()
    ]


def events_step(
    job: EventsJob, name: str, checkpoint: str | Path, out: Path, form: Form
) -> Step:
    """psl.events of a checkpoint, by rules fitted on dev."""
    words = (*form.words, f"fit_audio={job.dev}", f"fit_strong={job.strong}")
    return _step(job, name, checkpoint, job.audio, out, words)


def teacher_step(job: EventsJob, teacher: str, audio: Path) -> Step:
    """The same of a published teacher in windows, on ``audio`` of its rate.

    Its own frames are not meant for it, and dev is not of its rate: its rules are not
    fitted.
    """
    folder = "events_fine"
    words = (*FORMS[folder].words, "classes=shared")
    return _step(job, "teacher", teacher, audio, job.root / "teacher" / folder, words)


def _step(
    job: EventsJob,
    name: str,
    checkpoint: str | Path,
    audio: Path,
    out: Path,
    words: Sequence[str],
) -> Step:
    command = python(
        *("-m", "psl.events", f"checkpoint={checkpoint}", f"out={out}"),
        *(f"audio={audio}", f"strong={job.strong}", *words),
    )
    return Step(f"events of {name}, {out.name}", command, out / "metrics.json")


def read_measures(path: Path) -> dict[str, float] | None:
    """The measures of a metrics.json in percent; None if there is none.

    Raises ShardError for one that lacks a measure.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if missing := [name for name in MEASURES if found.get(name) is None]:
        raise ShardError(
            f"{path}: no {missing[0]}, as an earlier version wrote it; remove it to "
            "measure again"
        )
    return {name: 100 * found[name] for name in MEASURES}


def read_seeds(job: EventsJob, system: str, folder: str) -> dict[int, Values]:
    """The same of every seed of a system that was ever run to its end."""
    found = {}
    for path in job.root.glob(f"seed*/{system}/{folder}/metrics.json"):
        seed, values = path.parts[-4].removeprefix("seed"), read_measures(path)
        if seed.isdecimal() and values is not None:
            found[int(seed)] = values
    return dict(sorted(found.items()))


def header() -> list[str]:
    """The first two lines of a table."""
    return [
        f"| System | Scored | {' | '.join(MEASURES.values())} | Seeds |",
        f"|---{'|---' * (len(MEASURES) + 2)}|",
    ]


def row(title: str, scored: str, seeds: Sequence[Values]) -> str:
    """A line of a table: mean, spread and interval of each measure over ``seeds``."""
    cells = [described([values[name] for values in seeds]) for name in MEASURES]
    return f"| {title} | {scored} | {' | '.join(cells)} | {len(seeds)} |"


def events_table(job: EventsJob) -> list[str]:
    """A row for each system and form; nothing if no events were measured."""
    lines = header()
    for folder, form in FORMS.items():
        for name, title in job.titles.items():
            seeds = read_seeds(job, name, folder)
            if seeds:
                found = tuple(seeds.values())
                lines.append(row(title, form.title, found))
        path = job.root / "teacher" / folder / "metrics.json"
        teacher = read_measures(path)
        if teacher is not None:
            cells = [
                "-" if name in OF_RULES else f"{teacher[name]:.1f}" for name in MEASURES
            ]
            lines.append(f"| Teacher | {form.title} | {' | '.join(cells)} | - |")
    return lines if len(lines) > 2 else []
