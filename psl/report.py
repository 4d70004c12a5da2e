"""The command that makes one page of runs: how they went and how good they are.

Owns its words; psl/reporting/ reads and draws.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    add("--out", type=Path, help="page (report.html; none with --json)")
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
    add(
        "--json",
        action="store_true",
        help="print what the page says as one JSON object, without sounds and pictures",
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

    out = args.out or (None if args.json else Path("report.html"))
    if out is not None and out.is_dir():
        raise ValueError(f"{out}: a folder; expected a file, such as report.html")
    runs = read_runs(args.runs)
    audio = None if args.audio is None else open_dataset(args.audio)
    words = sys.argv[1:] if argv is None else argv
    command = f"{typed_name('psl.report')} {shlex.join(words)}"
    clips = clips_of(runs, args.labels, audio)
    facts = facts_of(runs, command=command)
    facts["missing"] += clips.pop("missing")
    line = ""
    if out is not None:
        page = render({**facts, **clips})
        write_atomic(out, page)
        line = (
            f"{out}: {_count(len(runs), 'run')}, "
            f"{_count(len(facts['evaluations']), 'evaluation')}, "
            f"{len(page) / 1e6:.1f} MB"
        )
    print(_as_json({**facts, **clips}) if args.json else line)


def _as_json(facts: dict[str, Any]) -> str:
    """``facts`` without the sounds of clips."""
    for clip in [*facts["timelines"], *facts["samples"]]:
        del clip["sound"]
    return json.dumps(facts, allow_nan=False, ensure_ascii=False)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    run_main(main)
