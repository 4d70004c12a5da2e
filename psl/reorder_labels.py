"""The command that copies labels into the order of another packing of the same clips.

Owns its words. psl/labelling/reorder.py does it, imported once the configuration is
accepted, so that --help and a wrong key are answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from psl.command_line import Command, from_command_line
from psl.labelling.config import ReorderConfig
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
    config = from_command_line(ReorderConfig, argv, COMMAND)
    from psl.labelling.reorder import reorder_labels  # loads decoders

    print(reorder_labels(config))


if __name__ == "__main__":
    run_main(main)
