"""The command that writes embeddings of the windows of audio files.

Owns its words; psl/embeddings does the work. What loads torch is imported late.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from psl.tagging.outputs import import_pyarrow
from psl.tagging.windows import Cut
from psl.teachers.named import check_model
from shards.system.arguments import Parser
from shards.system.exits import EXIT_BAD_INPUT, JobError, run_main, typed_name


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.embed")
    parser = Parser(
        prog=name,
        description="Write what a model hears in each window of audio files of any "
        "length, before it decides: an embedding, to search and to suggest labels in.",
        epilog=f"example: {name} mn04 recordings --out recordings.npz --window 2 "
        "--hop 1",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="run or checkpoint folder, or fetched teacher")
    add("places", metavar="AUDIO", nargs="+", help="file, folder, or http(s) URL")
    add("--out", metavar="FILE", required=True, type=Path, help=".npz or .parquet")
    add("--window", type=float, default=2.0, metavar="S", help="seconds (default 2)")
    add("--hop", type=float, metavar="S", help="from one to the next (default: window)")
    add("--device", help="cpu, cuda, ... (default: the GPU, if any)")
    add("--json", action="store_true", help="print the counts as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.embed``."""
    args = _parser().parse_args(argv)
    cut = Cut(args.window, args.hop)
    suffix = args.out.suffix.lower()
    if suffix not in (".npz", ".parquet"):
        raise ValueError(f"{args.out}: expected a name that ends in .npz or .parquet")
    if args.out.is_dir() or not args.out.absolute().parent.is_dir():
        raise ValueError(f"{args.out}: no place for a file; make the folder above it")
    if suffix == ".parquet":
        import_pyarrow()
    check_model(args.model)
    from psl.tagging.readers import list_files  # loads decoders

    files = list_files(args.places)
    from psl.embeddings.making import Embedder, make  # loads torch

    total, failures = make(Embedder(args.model, args.device), files, args.out, cut)
    facts = {"windows": total, "files": len(files) - len(failures)}
    facts["failed"] = len(failures)
    if args.json:
        print(json.dumps({"out": str(args.out), **facts}))
    else:
        print(f"{args.out}: {total} windows of {facts['files']} files")
    if failures:
        raise JobError.ending_with(
            EXIT_BAD_INPUT,
            f"{len(failures)} of {len(files)} files could not be read and are not in "
            "the output: see the lines above",
        )


if __name__ == "__main__":
    run_main(main)
