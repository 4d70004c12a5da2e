"""Events in time on the miniature AudioSet: what each system knows about when.

    python -m tools.paper.reproduce events --seeds 0,1,2

Builds the set, trains the teacher, labels, trains the weak baseline and the three
students, with frames of 0.64 s and of 0.16 s, and measures PSDS, F1 and 1-s segment mAP
of all of them, of the teacher and of its labels. Rules are fitted on dev. Finished
steps are skipped; the students of 0.64 s are those of table2. Owns the command;
mini_events_table.py has the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from shards.system.exits import run_main
from tools.paper.events import FORMS, EventsJob, Form, events_step
from tools.paper.mini_chain import PROFILES, Profile
from tools.paper.mini_events_table import CHUNKS, ROWS, events_job, write_results
from tools.paper.page import fill_page
from tools.paper.recipes import Reproduction, lanes, preparation
from tools.paper.steps import Chain, Step, label_step, python

CHOICES = ("quick", "table", "smoke")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.paper.reproduce events",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--profile",
        choices=CHOICES,
        default="quick",
        help="size of everything, as of tools.paper.demo; the numbers of smoke mean "
        "nothing (default quick)",
    )
    add("--data", type=Path, help="folder of the set (default: the profile's)")
    add("--root", type=Path, help="folder of the runs (default: the profile's)")
    add("--seeds", default="0,1,2", help="of students (default %(default)s)")
    add(
        "--rows",
        default=",".join(ROWS),
        help="students, of %(default)s (default: all)",
    )
    add(
        "--frames",
        choices=("both", "coarse", "fine"),
        default="both",
        help="students with frames of 0.64 s (coarse), of 0.16 s, or both (default)",
    )
    add("--jobs", type=int, default=2, help="students at a time (default 2)")
    add("--print", action="store_true", help="show the commands and run none of them")
    add("--report", action="store_true", help="run nothing: the table of what is there")
    add("--page", type=Path, help="also put the table between the marks of this page")
    return parser


def _jobs(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> list[Reproduction]:
    """Students with frames of the usual length, then with finer ones."""
    profile = PROFILES[args.profile]
    profile = dataclasses.replace(
        profile, data=args.data or profile.data, root=args.root or profile.root
    )
    rows = tuple(args.rows.split(","))
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"--rows {unknown[0]}: expected some of {', '.join(ROWS)}")
    seeds = args.seeds.split(",")
    if not all(seed.isdecimal() for seed in seeds):
        parser.error(f"--seeds {args.seeds}: expected numbers, such as 0,1,2")
    if args.jobs < 1:
        parser.error("--jobs: expected 1 or more")
    job = Reproduction("table2", profile, rows, tuple(map(int, seeds)), None)
    kinds = {"coarse": [False], "fine": [True], "both": [False, True]}[args.frames]
    return [dataclasses.replace(job, fine=fine) for fine in kinds]


def teacher_steps(profile: Profile, job: EventsJob) -> list[Step]:
    """Measure the teacher, and its labels of the clips that are measured.

    psl.events in windows as long as chunks fits the rules that find the labels' events.
    """
    teacher, steps = profile.root / "teacher", []
    for folder, form in FORMS.items():
        steps.append(events_step(job, "teacher", teacher, teacher / folder, form))
    for seconds in CHUNKS:
        labels = profile.root / f"labels_eval_{seconds}s"
        fitted = teacher / f"events_{seconds}s"
        form = Form(f"{seconds}-s windows", (f"window_seconds={seconds}",))
        steps.append(label_step(teacher, job.audio, labels, seconds))
        steps.append(events_step(job, "teacher", teacher, fitted, form))
        command = python(
            *("-m", "psl.label_report", labels, "--audio", job.audio),
            *("--strong", job.strong, "--rules", fitted / "rules.json"),
            *("--out", labels / "report", "--no-pictures"),
        )
        result = labels / "report" / "report.json"
        steps.append(Step(f"measure {labels.name}", command, result))
    return steps


def student_lanes(jobs: Sequence[Reproduction], events: EventsJob) -> list[list[Step]]:
    """Train and measure each student, all of a seed after another.

    Finer frames are measured as frames alone: windows hide them.
    """
    found = []
    for seed, job in itertools.product(jobs[0].seeds, jobs):
        forms = list(FORMS.items())[: 1 if job.fine else None]
        for row, lane in zip(reversed(job.rows), lanes(job, seed), strict=True):
            run_dir = job.run_dir(row, seed)
            name = f"seed{seed}/{run_dir.name}"
            for folder, form in forms:
                out = run_dir / folder
                lane.append(events_step(events, name, run_dir, out, form))
            found.append(lane)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.paper.reproduce events``."""
    parser = _parser()
    args = parser.parse_args(argv)
    jobs = _jobs(parser, args)
    profile = jobs[0].profile
    events = events_job(profile.root, profile.data)
    first, teacher = preparation(jobs[0]), teacher_steps(profile, events)
    students = student_lanes(jobs, events)
    if args.print:
        for step in [*first, *teacher, *(step for lane in students for step in lane)]:
            print(shlex.join(["python", *step.command[1:]]))
        return
    if not args.report:
        chain = Chain(profile.root)
        chain.run(first)
        chain.run_lanes([teacher, *students], lanes=args.jobs)
    text = write_results(events)
    if args.page is not None:
        fill_page(args.page, text)
    print(text)


if __name__ == "__main__":
    run_main(main)
