"""The command that finds the windows most like a sound.

Owns its words; psl/embeddings does the work. What loads torch is imported late.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.search")
    parser = Parser(
        prog=name,
        description="Find the windows whose embeddings are most like those of a sound, "
        "by cosine.",
        epilog=f"example: {name} recordings.npz --like door.wav --top 20",
    )
    add = parser.add_argument
    add("embeddings", metavar="EMBEDDINGS", help="file of psl embed")
    add("--like", metavar="FILE", required=True, help="file or URL of a sound")
    add("--top", type=int, default=20, metavar="N", help="windows (default 20)")
    add("--model", help="where the model is now (default: where it was)")
    add("--device", help="cpu, cuda, ... (default: the GPU, if any)")
    add("--json", action="store_true", help="print JSON lines")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.search``."""
    args = _parser().parse_args(argv)
    if args.top < 1:
        raise ValueError(f"--top {args.top}: expected 1 or more")
    from psl.embeddings.job import search  # loads torch

    for row in search(
        args.embeddings, args.like, top=args.top, model=args.model, device=args.device
    ):
        if args.json:
            print(json.dumps(row))
        else:
            print(
                f"{row['similarity']:.3f}  {row['start']:10.2f} {row['end']:10.2f}  "
                f"{row['file']}"
            )


if __name__ == "__main__":
    run_main(main)
