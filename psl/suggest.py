"""The command that says which windows to label next.

Owns its words; psl/embeddings does the work. What loads torch is imported late.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.suggest")
    parser = Parser(
        prog=name,
        description="Write a table of the windows that a model is least sure of, all "
        "unlike each other. Fill in its column label (- for none of the classes) and "
        "give it to psl adapt --labelled.",
        epilog=f"example: {name} recordings.npz --model runs/own --number 50 "
        "--out to_label.csv",
    )
    add = parser.add_argument
    add("embeddings", metavar="EMBEDDINGS", help="file of psl embed")
    add("--model", required=True, help="the model that embedded, or adapted from it")
    add("--out", metavar="CSV", required=True, type=Path, help="table to write")
    add("--number", type=int, default=50, metavar="N", help="windows (default 50)")
    add(
        "--labelled",
        metavar="CSV",
        nargs="+",
        default=[],
        help="earlier tables: their windows are not suggested again",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.suggest``."""
    args = _parser().parse_args(argv)
    if args.number < 1:
        raise ValueError(f"--number {args.number}: expected 1 or more")
    if args.out.exists():
        raise ValueError(f"{args.out}: exists, and may hold labels; choose another")
    from psl.embeddings.job import suggest_table  # loads torch

    number = suggest_table(
        args.embeddings,
        args.model,
        out=args.out,
        number=args.number,
        labelled=args.labelled,
    )
    print(f"{args.out}: {number} windows to label")


if __name__ == "__main__":
    run_main(main)
