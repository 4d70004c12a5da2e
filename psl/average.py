"""The command that averages the best checkpoints of a finished run.

Owns its words. psl/training/average_run.py does it; it and torch are imported once the
configuration is accepted, so that --help and a wrong key are answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from psl.command_line import Command, from_command_line
from psl.training.config import AverageConfig
from shards.system.exits import run_main

COMMAND = Command(
    "psl.average",
    purpose="Average the best checkpoints of a finished run, and use the average.",
    example="run=runs/student k=4",
    first=("run", "k"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.average``."""
    config = from_command_line(AverageConfig, argv, COMMAND)
    from psl.training.average_run import run_averaging  # loads torch

    run_averaging(config)


if __name__ == "__main__":
    run_main(main)
