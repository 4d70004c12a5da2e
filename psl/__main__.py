"""``psl <command> ...``: the same commands as ``python -m psl.<command>``."""

from __future__ import annotations

import importlib
import sys

from shards.system.exits import run_main

COMMANDS = {
    "pack": ("shards.pack", "audio in any form -> audio shards"),
    "adopt": ("shards.adopt", "WebDataset tars of others -> an index beside them"),
    "info": ("shards.info", "what is in a dataset"),
    "verify": ("shards.verify", "re-read a dataset and compare it with its index"),
    "label": ("psl.label", "teacher + audio shards -> label shards"),
    "label_report": ("psl.label_report", "how good pseudo labels are"),
    "train": ("psl.train", "train on weak or pseudo strong labels"),
    "average": ("psl.average", "mean of a run's best checkpoints"),
    "status": ("psl.status", "how a run stands"),
    "evaluate": ("psl.evaluate", "mAP and other metrics of a checkpoint"),
}


def main() -> None:
    """Dispatch to a command; without one, list them."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        lines = [f"  {key:12} {purpose}" for key, (_, purpose) in COMMANDS.items()]
        print("usage: psl COMMAND ...\n\n" + "\n".join(lines))
        print("\npsl COMMAND --help says more.")
        sys.exit(0 if name in ("--help", "-h") else 2)
    command = importlib.import_module(COMMANDS[name][0])
    run_main(lambda: command.main(sys.argv[2:]))


if __name__ == "__main__":
    main()
