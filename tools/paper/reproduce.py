"""One table of the paper from end to end: teacher, labels, students, and the result.

Runs psl's own commands one after the other, skips those whose result is there, and
sets what was measured next to what the paper reports. Owns which commands make a row.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.format.index import open_index
from shards.system.exits import run_main
from shards.system.files import write_atomic
from tools.paper import mini_events, real
from tools.paper.mini_chain import PROFILES, Profile
from tools.paper.numbers import TABLES
from tools.paper.recipes import Reproduction, check_audioset, lanes, preparation
from tools.paper.results import Summary, paper_table, summarise, with_dev
from tools.paper.steps import Chain
from tools.results.stored import measured_now, write_stored

AUDIOSET = Profile(
    root=Path("runs/audioset"),
    data=Path("data/audioset"),
    build=(),
    teacher_epochs=0,
    student_epochs=None,
    seeds=3,
)
"""The real one, at the recipes' own length; nothing is built or downloaded, and no
teacher trained."""


def read_results(job: Reproduction) -> Summary:
    """What is there of the table, of every row and seed that was ever run."""
    found: dict[str, list[Path]] = {}
    folders = {row: job.run_dir(row, 0).name for row in job.table.rows}
    for row, folder in folders.items():
        paths = job.profile.root.glob(f"seed*/{folder}/eval/metrics.json")
        found[row] = sorted(paths, key=lambda path: int(path.parts[-4][4:]))
    teacher = job.profile.root / "teacher" / "eval" / "metrics.json"
    found["teacher"] = [teacher] if teacher.exists() else []
    texts = {row: [path.read_text("utf-8") for path in found[row]] for row in found}
    summary = summarise({system: of for system, of in texts.items() if of})
    runs = {row: [path.parents[1] for path in paths] for row, paths in found.items()}
    return with_dev(summary, runs)


def report(job: Reproduction) -> str:
    """Write ROOT/TABLE.md and .json; the Markdown."""
    summary = read_results(job)
    evaluation = open_index(job.profile.data / "shards" / "eval", kind="audio")
    kind = "the miniature set" if job.is_mini else str(job.profile.data)
    where = (
        f"{kind}, {len(evaluation.classes)} classes, {len(evaluation)} evaluation clips"
    )
    text = paper_table(job.name, summary, where)
    write_atomic(job.profile.root / f"{job.name}{job.suffix}.md", text)
    stored = measured_now(systems=summary)
    write_stored(job.profile.root / f"{job.name}{job.suffix}.json", stored)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.paper.reproduce",
        description=__doc__,
        epilog="example: python -m tools.paper.reproduce table2 --data data/mini-table "
        "--rows baseline,psl_2s --seeds 0,1,2; for real sound: python -m "
        "tools.paper.reproduce real --help; for events in time: python -m "
        "tools.paper.reproduce events --help",
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with shards/full, balanced, dev and eval; the mini set is built "
        "there if it is not (default: the profile's)",
    )
    parser.add_argument(
        "--profile",
        choices=["table", "smoke", "audioset"],
        default="table",
        help="the mini set (table), a shorter one whose numbers mean nothing (smoke), "
        "or AudioSet at full length",
    )
    parser.add_argument("--rows", help="such as psl_5s,psl_2s (default: all)")
    parser.add_argument("--seeds", help="such as 0,1,2 (default: the profile's)")
    parser.add_argument("--jobs", type=int, default=1, help="students at a time")
    parser.add_argument("--root", type=Path, help="folder of the runs")
    parser.add_argument(
        "--teacher",
        help="who labels, as for psl.label (default: one is trained on the mini set)",
    )
    parser.add_argument(
        "--paper-protocol",
        action="store_true",
        help="choose checkpoints on the training clips, as the paper's program did",
    )
    parser.add_argument(
        "--print", action="store_true", help="show the commands and run none of them"
    )
    return parser


def _job(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Reproduction:
    """What the command line asks for."""
    profile = AUDIOSET if args.profile == "audioset" else PROFILES[args.profile]
    profile = dataclasses.replace(
        profile, data=args.data or profile.data, root=args.root or profile.root
    )
    known = TABLES[args.table].rows
    rows = tuple(args.rows.split(",")) if args.rows else tuple(known)
    if unknown := [row for row in rows if row not in known]:
        parser.error(f"--rows {unknown[0]}: {args.table} has {', '.join(known)}")
    labelled = [row for row in rows if known[row].labels]
    if labelled and args.profile == "audioset" and args.teacher is None:
        parser.error(
            f"--rows {labelled[0]} needs --teacher: a run folder or a checkpoint of a "
            "teacher; how the published one was trained is not known"
        )
    seeds = args.seeds.split(",") if args.seeds else range(profile.seeds)
    if not all(str(seed).isdecimal() for seed in seeds):
        parser.error(f"--seeds {args.seeds}: expected numbers, such as 0,1,2")
    return Reproduction(
        name=args.table,
        profile=profile,
        rows=rows,
        seeds=tuple(map(int, seeds)),
        teacher=args.teacher,
        paper_protocol=args.paper_protocol,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.paper.reproduce``."""
    words = sys.argv[1:] if argv is None else argv
    others = {"real": real.main, "events": mini_events.main}
    if words and words[0] in others:
        others[words[0]](words[1:])
        return
    parser = _parser()
    args = parser.parse_args(argv)
    job = _job(parser, args)
    first = preparation(job)
    students = [lane for seed in job.seeds for lane in lanes(job, seed)]
    if args.print:
        for step in [*first, *(step for steps in students for step in steps)]:
            print(shlex.join(["python", *step.command[1:]]))
        return
    if not job.is_mini:
        check_audioset(job)
    chain = Chain(job.profile.root)
    chain.run(first)
    chain.run_lanes(students, lanes=args.jobs)
    print(report(job))


if __name__ == "__main__":
    run_main(main)
