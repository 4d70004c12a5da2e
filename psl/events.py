"""The command that finds events in time with a checkpoint, and measures them.

Owns its words. psl/detection/job.py does it; it and torch are imported once the
configuration is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from psl.command_line import Command, from_command_line
from psl.detection.config import EventsConfig
from psl.teachers.named import checkpoint_of
from shards.system.exits import run_main

COMMAND = Command(
    "psl.events",
    purpose="Events in time from frame probabilities, as a table; with true events, "
    "PSDS and F1.",
    example="checkpoint=runs/student audio=data/eval strong=eval_strong.tsv "
    "out=runs/student/events",
    first=("checkpoint", "audio", "out", "strong", "fit_audio", "fit_strong"),
    has_json=True,
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.events``."""
    config = from_command_line(EventsConfig, argv, COMMAND)
    folder = checkpoint_of(config.checkpoint, config.loader.cache)
    config = replace(config, checkpoint=folder)
    from psl.detection.job import run  # loads torch
    from psl.evaluation.described import described_events

    summary = run(config)
    if COMMAND.wants_json(argv):
        print(json.dumps(summary, allow_nan=False))
    else:
        print(f"{described_events(summary)}\n{config.out}: events.tsv, metrics.json")


if __name__ == "__main__":
    run_main(main)
