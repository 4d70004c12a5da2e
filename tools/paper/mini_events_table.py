"""The table of events in time on the miniature AudioSet, from what the commands left.

Owns which rows there are, the arithmetic over seeds, and the Markdown. Runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from shards.errors import ShardError
from shards.system.files import write_atomic
from tools.paper.events import (
    FORMS,
    MEASURES,
    EventsJob,
    Values,
    header,
    read_measures,
    read_seeds,
    row,
)
from tools.paper.numbers import TABLES
from tools.paper.spread import interval

ROWS = ("baseline", "psl_10s", "psl_5s", "psl_2s")
CHUNKS = (10, 5, 2)
"""Lengths of the chunks whose labels are measured, s."""
KINDS = {
    "coarse": ("events", "", "Frames of 0.64 s"),
    "fine": ("events", "_fine", "Frames of 0.16 s"),
    "windows": ("events_fine", "", f"{FORMS['events_fine'].title}"),
}
"""Folder in a run, what the run's name ends in, and words for it."""
BySeed = dict[int, Values]
Found = Mapping[tuple[str, str], BySeed]
"""By kind and system."""


def events_job(root: Path, data: Path) -> EventsJob:
    """What is measured of a mini set in ``data`` and its runs in ``root``."""
    titles = {name: TABLES["table2"].rows[name].title for name in ROWS}
    shards = data / "shards"
    return EventsJob(root, shards / "eval", shards / "dev", data / "strong.csv", titles)


def read_values(job: EventsJob) -> dict[tuple[str, str], BySeed]:
    """The measures of each kind and system, of every seed that has them."""
    found = {}
    for kind, (folder, suffix, _) in KINDS.items():
        for name in ROWS:
            if seeds := read_seeds(job, f"{name}{suffix}", folder):
                found[kind, name] = seeds
    return found


def teacher_rows(job: EventsJob) -> list[str]:
    """The teacher over time, and its labels."""
    lines = []
    for folder, form in FORMS.items():
        values = read_measures(job.root / "teacher" / folder / "metrics.json")
        if values is not None:
            title = KINDS["coarse"][2] if folder == "events" else form.title
            lines.append(row("Teacher", title, [values]))
    for seconds in CHUNKS:
        path = job.root / f"labels_eval_{seconds}s" / "report" / "report.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))["in_time"]
            values = {name: 100 * found[name] for name in MEASURES}
            title = f"Labels of {seconds}-s chunks"
            lines.append(row("Teacher", title, [values]))
    return lines


def difference_rows(found: Found) -> list[str]:
    """What one system or kind has more than another, paired by seed."""
    pairs = []
    for kind in KINDS:
        ways = [*zip(ROWS[1:], ROWS, strict=False), (ROWS[-1], ROWS[0])]
        pairs += [((kind, one), (kind, two)) for one, two in ways]
    pairs += [(("fine", name), ("coarse", name)) for name in ROWS]
    lines = []
    for one, two in pairs:
        both = sorted(found.get(one, {}).keys() & found.get(two, {}).keys())
        if not both:
            continue
        cells = []
        for measure in MEASURES:
            gaps = [found[one][s][measure] - found[two][s][measure] for s in both]
            limits = interval(gaps)
            more = "" if limits is None else " ({:+.1f} to {:+.1f})".format(*limits)
            cells.append(f"{fmean(gaps):+.1f}{more}")
        scored, titles = KINDS[one[0]][2], [_title(name) for _, name in (one, two)]
        what = f"{titles[0]} minus {titles[1]}"
        if one[0] != two[0]:
            what, scored = titles[0], f"{scored} minus {KINDS[two[0]][2].lower()}"
        lines.append(f"| {what} | {scored} | {' | '.join(cells)} | {len(both)} |")
    return lines


def _title(name: str) -> str:
    return TABLES["table2"].rows[name].title


def render(job: EventsJob, found: Found) -> str:
    """All that was measured, in Markdown."""
    lines = [
        "Mean ± standard deviation of the seeds (95 % confidence interval of the mean, "
        "Student's t).",
        "",
        "<!-- table: mini_events.systems -->",
        *header(),
    ]
    for (kind, name), seeds in found.items():
        values = tuple(seeds.values())
        lines.append(row(_title(name), KINDS[kind][2], values))
    lines += teacher_rows(job)
    if differences := difference_rows(found):
        head = header()
        head[0] = head[0].replace("System", "Difference")
        lines += ["", "Differences, paired by seed, with the same interval:", ""]
        lines.append("<!-- table: mini_events.differences -->")
        lines += [*head, *differences]
    return "\n".join([*lines, ""])


def write_results(job: EventsJob) -> str:
    """Write ROOT/EVENTS.md and EVENTS.json; the Markdown.

    ShardError if no student was measured.
    """
    found = read_values(job)
    if not found:
        raise ShardError(
            f"{job.root}: no measured student in it; run this without --report first"
        )
    text = render(job, found)
    write_atomic(job.root / "EVENTS.md", text)
    values = {f"{kind} {name}": seeds for (kind, name), seeds in found.items()}
    write_atomic(job.root / "EVENTS.json", json.dumps(values, indent=1) + "\n")
    return text
