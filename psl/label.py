"""The command that labels audio shards with a teacher.

Owns its words. psl/labelling/job.py is the job; it and torch are imported once the
configuration is accepted, so that --help and a wrong key are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from psl.command_line import Command, from_command_line
from psl.job.launcher import end_with_launcher
from psl.labelling import progress
from psl.labelling.config import LabelConfig
from shards.system.exits import run_main

COMMAND = Command(
    "psl.label",
    purpose="Write a teacher's chunk probabilities as label shards. Any number of "
    "processes may share the work. --status DIR [--json] shows the progress.",
    example="teacher=runs/teacher audio=data/balanced out=data/labels_2s "
    "chunk_seconds=2",
    first=(
        "teacher",
        "audio",
        "out",
        "chunk_seconds",
        "hop_seconds",
        "context_seconds",
        "top_k",
        "batch_size",
        "precision",
        "calibration",
        "max_unlabelled",
        "wait",
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.label``."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] == "--status" for word in words):
        progress.main(words)
        return
    config = from_command_line(LabelConfig, argv, COMMAND)
    end_with_launcher()
    from psl.labelling.job import run_labelling  # loads torch

    run_labelling(config)


if __name__ == "__main__":
    run_main(main)
