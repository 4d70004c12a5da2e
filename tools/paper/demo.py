"""The whole chain on one machine, from the mini AudioSet to a table of students.

Runs the commands a user would run, prints each of them, and skips those whose result
is there. Owns the order of the steps; every step is a command of its own, so that each
can be tried alone.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence

from shards.system.exits import JobError, run_main
from tools.paper.mini_chain import CONFIGS, PROFILES, Profile, data_steps, teacher_steps
from tools.paper.steps import Chain, Step, evaluate_step, label_step, python, train_step

STUDENTS = {"baseline": None, "psl_10s": 10, "psl_5s": 5, "psl_2s": 2}
"""Chunk length of each student's pseudo labels, s; None for weak labels."""


def _label_steps(profile: Profile) -> list[Step]:
    """Labels for the students, and those that the report draws."""
    teacher, shards = profile.root / "teacher", profile.data / "shards"
    wanted = [("balanced", f"labels_{s}s", s) for s in STUDENTS.values() if s]
    wanted.append(("eval", "labels_eval_2s", 2))
    return [
        label_step(teacher, shards / split, profile.root / out, seconds)
        for split, out, seconds in wanted
    ]


def _student_steps(profile: Profile, student: str, seed: int) -> list[Step]:
    run_dir = profile.root / f"seed{seed}" / student
    shards = profile.data / "shards"
    words = [f"seed={seed}", f"epochs={profile.student_epochs}"]
    words += [f"data.audio=[{shards}/balanced]", f"data.valid={shards}/dev"]
    if STUDENTS[student]:
        words.append(f"data.labels=[{profile.root}/labels_{STUDENTS[student]}s]")
    configs = (CONFIGS / "base.yaml", CONFIGS / f"{student}.yaml")
    return [
        train_step(student, run_dir, 1, *configs, *words),
        evaluate_step(f"seed{seed}/{student}", run_dir, shards / "eval"),
    ]


def page_command(profile: Profile) -> list[str]:
    """psl.report of the first seed's students and the teacher, with eval's sounds."""
    runs = [profile.root / "seed0" / student for student in STUDENTS]
    page = profile.root / "report" / "report.html"
    runs.append(profile.root / "teacher")
    audio = profile.data / "shards" / "eval"
    return python("-m", "psl.report", *runs, "--audio", audio, "--out", page)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.paper.demo``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.paper.demo",
        description=__doc__,
        epilog="example: python -m tools.paper.demo --profile quick",
    )
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    profile = PROFILES[parser.parse_args(argv).profile]
    chain = Chain(profile.root)
    chain.run(data_steps(profile))
    chain.run(teacher_steps(profile))
    chain.run(_label_steps(profile))
    students = [
        _student_steps(profile, student, seed)
        for seed in range(profile.seeds)
        for student in reversed(STUDENTS)  # the longest first, so that lanes end even
    ]
    chain.say(f"{len(students)} students, two at a time; output in {profile.root}/logs")
    chain.run_lanes(students, lanes=2)
    report = python("-m", "tools.paper.report", profile.root, "--data", profile.data)
    for command in (report, page_command(profile)):
        if subprocess.run(command).returncode:
            raise JobError("the report failed; its error stands above")
    chain.say(
        f"table and pictures are in {profile.root}/report; open report.html there in a "
        "browser"
    )


if __name__ == "__main__":
    run_main(main)
