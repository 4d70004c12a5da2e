"""The command that makes one page of runs: how they went and how good they are.

Owns its words; psl/reporting/ reads and draws.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.report")
    parser = Parser(
        prog=name,
        description="Make one HTML page of runs and their evaluations, which needs no "
        "network: differences of the configurations, curves, results with intervals, "
        "AP of each class, confused classes, labels over time, clips to play.",
        epilog=f"example: {name} runs/baseline runs/psl_2s --audio data/eval "
        "--out report.html",
    )
    add = parser.add_argument
    add(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folder, with the evaluations in it; RUN,EVALUATION for an out folder "
        "of psl.evaluate elsewhere; an evaluation alone",
    )
    add("--out", type=Path, default=Path("report.html"), help="page (report.html)")
    add(
        "--audio",
        metavar="DATASET",
        help="audio dataset of clips to play, that of the evaluation or of the labels; "
        "their sound is then in the page, about 0.2 MB each",
    )
    add(
        "--labels",
        metavar="DATASET",
        action="append",
        default=[],
        help="labels to show over time (default: those the runs were trained on)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.report``."""
    args = _parser().parse_args(argv)
    # imported late, so that --help is quick
    from psl.reporting.facts import facts_of
    from psl.reporting.page import render
    from psl.reporting.runs import read_runs
    from psl.reporting.shown_clips import clips_of
    from shards.dataset.clips import open_dataset
    from shards.system.files import write_atomic

    if args.out.is_dir():
        raise ValueError(f"{args.out}: a folder; expected a file, such as report.html")
    runs = read_runs(args.runs)
    audio = None if args.audio is None else open_dataset(args.audio)
    words = sys.argv[1:] if argv is None else argv
    command = f"{typed_name('psl.report')} {shlex.join(words)}"
    clips = clips_of(runs, args.labels, audio)
    facts = facts_of(runs, command=command)
    facts["missing"] += clips.pop("missing")
    page = render({**facts, **clips})
    write_atomic(args.out, page)
    num_evaluations = len(facts["evaluations"])
    print(
        f"{args.out}: {_count(len(runs), 'run')}, "
        f"{_count(num_evaluations, 'evaluation')}, {len(page) / 1e6:.1f} MB"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    run_main(main)
