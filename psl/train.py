"""The command that trains a tagger on weak labels, pseudo strong labels, or a mixture.

Owns its words. psl/training/loop.py is the story of a run; it and torch are imported
once the configuration is accepted, so that --help and a wrong key are answered at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from psl.command_line import Command, from_command_line
from psl.distributed.environment import rank_and_world_size
from psl.job.status import note_bad_config
from psl.training.config import TrainConfig
from shards.system.exits import run_main

COMMAND = Command(
    "psl.train",
    purpose="Train a tagger on weak or pseudo strong labels.",
    example="configs/mini/base.yaml configs/mini/psl_2s.yaml run_dir=runs/mine "
    "optim.learning_rate=1e-3",
    first=(
        "run_dir",
        "data.audio",
        "data.valid",
        "data.labels",
        "data.chunk_seconds",
        "model.name",
        "start",
        "optim.learning_rate",
        "global_batch_size",
        "batch_seconds",
        "epochs",
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.train``."""
    config = _configure(argv)
    from psl.training.loop import run_training  # loads torch

    run_training(config)


def _configure(argv: Sequence[str] | None) -> TrainConfig:
    """The configuration; what is wrong with it is noted in the run folder, too."""
    try:
        return from_command_line(TrainConfig, argv, COMMAND)
    except ValueError as error:
        if rank_and_world_size()[0] == 0:
            words = sys.argv[1:] if argv is None else argv
            with contextlib.suppress(OSError):  # the folder may be what is wrong
                note_bad_config(words, str(error), TrainConfig)
        raise


if __name__ == "__main__":
    run_main(main)
