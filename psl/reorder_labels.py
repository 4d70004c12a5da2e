"""The command that copies labels into the order of another packing of the same clips.

Owns its words; psl/labelling/reorder.py does it.
"""

from __future__ import annotations

from collections.abc import Sequence

from psl.command_line import Command, from_command_line
from psl.labelling.reorder import ReorderConfig, reorder_labels
from shards.system.exits import run_main

COMMAND = Command(
    "psl.reorder_labels",
    purpose="Copy labels into the order of another packing of the same clips, at any "
    "rate. Every key must be in both.",
    example="labels=data/labels_2s audio=data/repacked out=data/repacked_labels_2s",
    first=("labels", "audio", "out", "old_audio"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.reorder_labels``."""
    print(reorder_labels(from_command_line(ReorderConfig, argv, COMMAND)))


if __name__ == "__main__":
    run_main(main)
