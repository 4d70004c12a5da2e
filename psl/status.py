"""Print the state of a run, and exit with a status that says it.

torchrun and accelerate launch turn every exit status into 1, so a batch script asks:

    python -m psl.status RUN_DIR; case $? in 0) ...;; 75) requeue;; esac
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from psl.job.status import EXIT_OF, report
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.status``."""
    codes = ", ".join(f"{state} {code}" for state, code in EXIT_OF.items())
    name = typed_name("psl.status")
    parser = Parser(
        prog=name,
        description=f"Print the state of a run and exit with its status: {codes}.",
        epilog=f"example:\n  {name} runs/mine",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", help="folder of the run")
    state, line = report(parser.parse_args(argv).run_dir)
    print(f"{state}\t{line}")
    parser.exit(EXIT_OF[state])


if __name__ == "__main__":
    run_main(main)
