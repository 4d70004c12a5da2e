"""The method on real sound: scenes of recordings, a published teacher, four students.

    python -m tools.paper.reproduce real --recordings ESC-50 --teacher mn04

Mixes scenes from recordings, packs them, has the teacher label 10-, 5- and 2-s chunks,
calibrates that, trains the weak baseline and the three students with several seeds, and
measures all on recordings that nobody trained on. Finished steps are skipped. Owns the
command; real_job.py has the steps, and real_results.py the table.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from psl.teachers.config import TeacherConfig, kind_of
from shards.errors import ShardError
from shards.system.exits import run_main
from tools.paper.events import student_steps, teacher_step
from tools.paper.real_job import (
    ALL,
    SYSTEMS,
    RealJob,
    data_steps,
    label_steps,
    quality_steps,
    system_steps,
    teacher_steps,
)
from tools.paper.real_results import write_results
from tools.paper.steps import Chain, Step


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.paper.reproduce real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--recordings",
        type=Path,
        required=True,
        metavar="DIR",
        help="ESC-50, FSD50K or the like, as for python -m tools.mini.real",
    )
    add(
        "--teacher",
        required=True,
        help="who labels, as for psl.label; must have all classes of the recordings",
    )
    add(
        "--data",
        type=Path,
        default=Path("data/mini-real"),
        help="folder for the scenes (default %(default)s)",
    )
    add(
        "--root",
        type=Path,
        default=Path("runs/real"),
        help="folder for the runs (default %(default)s)",
    )
    add("--seeds", default="0,1,2", help="of students (default %(default)s)")
    add(
        "--rows",
        default=",".join(SYSTEMS),
        help=f"of {', '.join(ALL)} (default %(default)s)",
    )
    add("--jobs", type=int, default=2, help="students at a time (default 2)")
    add("--scale", type=float, default=1.0, help="on the number of scenes (default 1)")
    add("--epochs", type=int, help="of each student (default: the recipe's)")
    add("--print", action="store_true", help="show the commands and run none of them")
    add(
        "--report",
        action="store_true",
        help="run nothing: tables and pictures of what is there",
    )
    add(
        "--page",
        type=Path,
        metavar="MD",
        help="also put the tables between the marks of this page, the pictures into "
        "the folder images next to it, and the numbers into results",
    )
    return parser


def _teacher_rate(teacher: str) -> int | None:
    """The rate of a teacher that is a run or a checkpoint of ours; None for others."""
    if kind_of(TeacherConfig(path=teacher)) != "run":
        return None
    from psl.teachers.named import checkpoint_of
    from psl.weights.checkpoint import load_checkpoint  # loads torch

    return load_checkpoint(checkpoint_of(teacher)).model_config.front_end.sample_rate


def _numbers(parser: argparse.ArgumentParser, text: str) -> tuple[int, ...]:
    if not all(word.isdecimal() for word in text.split(",")):
        parser.error(f"--seeds {text}: expected numbers, such as 0,1,2")
    return tuple(map(int, text.split(",")))


def _job(parser: argparse.ArgumentParser, args: argparse.Namespace) -> RealJob:
    """What the command line asks for."""
    rows = tuple(args.rows.split(","))
    if unknown := [row for row in rows if row not in ALL]:
        parser.error(f"--rows {unknown[0]}: expected some of {', '.join(ALL)}")
    if args.jobs < 1 or (args.epochs is not None and args.epochs < 1):
        parser.error("--jobs and --epochs: expected 1 or more")
    return RealJob(
        recordings=args.recordings,
        data=args.data,
        root=args.root,
        teacher=args.teacher,
        teacher_rate=None if args.report else _teacher_rate(args.teacher),
        seeds=_numbers(parser, args.seeds),
        rows=rows,
        scale=args.scale,
        epochs=args.epochs,
    )


def lanes(job: RealJob) -> list[list[Step]]:
    """Students that can be trained side by side, all systems of a seed after another.

    The teacher is measured first.
    """
    students = [
        [
            *system_steps(job, system, seed),
            *student_steps(job.events, f"seed{seed}/{system}"),
        ]
        for seed in job.seeds
        for system in reversed(job.rows)  # those with the most chunks take longest
    ]
    teacher = teacher_steps(job)
    if teacher:
        audio = job.shards("eval_for_teacher")
        teacher.append(teacher_step(job.events, job.teacher, audio))
    return [steps for steps in [teacher, *students] if steps]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.paper.reproduce real``."""
    parser = _parser()
    args = parser.parse_args(argv)
    job = _job(parser, args)
    first = [*data_steps(job), *label_steps(job), *quality_steps(job)]
    if args.print:
        for step in [*first, *(step for lane in lanes(job) for step in lane)]:
            print(shlex.join(["python", *step.command[1:]]))
        return
    if not args.report:
        if not job.recordings.is_dir():
            raise ShardError(f"{job.recordings}: no such folder; expected recordings")
        chain = Chain(job.root)
        chain.run(first)
        chain.run_lanes(lanes(job), lanes=args.jobs)
    report(job, args.page)


def report(job: RealJob, page: Path | None) -> None:
    """Write and print the tables, and draw the pictures."""
    from tools.paper.real_pictures import draw_pictures  # loads matplotlib and torch

    text = write_results(job, page)
    draw_pictures(job, job.root if page is None else page.parent / "images")
    print(text)


if __name__ == "__main__":
    run_main(main)
