"""The command that makes a label dataset of soft labels in Parquet or HDF5.

Owns its words. psl/labelling/soft_labels.py does it, imported once the configuration is
accepted, so that --help and a wrong key are answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from psl.command_line import Command, from_command_line
from psl.labelling.config import ImportConfig
from shards.system.exits import run_main

COMMAND = Command(
    "psl.import_labels",
    purpose="Make a label dataset of a table with a row for each chunk: its clip's "
    "key, its number in the clip and its probabilities. Checked like our own.",
    example="source=soft.parquet audio=data/balanced out=data/labels_2s "
    "chunk_seconds=2",
    first=(
        "source",
        "audio",
        "out",
        "chunk_seconds",
        "hop_seconds",
        "classes",
        "max_unlabelled",
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.import_labels``."""
    config = from_command_line(ImportConfig, argv, COMMAND)
    from psl.labelling.soft_labels import import_labels  # loads torch

    print(import_labels(config))


if __name__ == "__main__":
    run_main(main)
