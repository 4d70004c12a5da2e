"""The command that scores a dataset's whole clips with a checkpoint and measures.

Owns its words. psl/evaluation/evaluate.py does it; it and torch are imported once the
configuration is accepted, so that --help and a wrong key are answered at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from psl.command_line import Command, from_command_line
from psl.evaluation.config import EvaluateConfig
from psl.job.launcher import end_with_launcher
from psl.teachers.named import checkpoint_of
from shards.system.exits import run_main

COMMAND = Command(
    "psl.evaluate",
    purpose="mAP, AUC, d', recall at 0.2 and AP per class of a checkpoint.",
    example="checkpoint=runs/student audio=data/eval out=runs/student/eval",
    first=("checkpoint", "audio", "out", "classes", "batch_size"),
    has_json=True,
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.evaluate``."""
    config = from_command_line(EvaluateConfig, argv, COMMAND)
    folder = checkpoint_of(config.checkpoint, config.loader.cache)
    config = replace(config, checkpoint=folder)
    end_with_launcher()
    from psl.evaluation.described import described
    from psl.evaluation.evaluate import run_evaluation  # loads torch
    from psl.evaluation.results import check_out

    check_out(config.out)
    summary = run_evaluation(config)
    if summary is None:  # another rank says it
        return
    if COMMAND.wants_json(argv):
        print(json.dumps(summary, allow_nan=False))
    else:
        print(f"{described(summary)}\n{config.out}: metrics.json, per_class.csv")


if __name__ == "__main__":
    run_main(main)
