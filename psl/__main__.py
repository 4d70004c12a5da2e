"""``psl <command> ...``: the same commands as ``python -m psl.<command>``."""

from __future__ import annotations

import difflib
import importlib
import sys

from shards import __version__
from shards.system.exits import EXIT_DONE, EXIT_USAGE, run_main

GROUPS = {
    "start": {
        "init": ("psl.init", "configurations and launch files -> a folder"),
        "doctor": ("psl.doctor", "what works on this machine, and what is missing"),
    },
    "data": {
        "download": ("shards.download", "AudioSet's lists, and the audio of a list"),
        "pack": ("shards.pack", "audio in any form -> audio shards"),
        "adopt": ("shards.adopt", "index WebDataset tars of others where they are"),
        "info": ("shards.info", "what is in a dataset"),
        "verify": ("shards.verify", "re-read a dataset and compare it with its index"),
    },
    "teach": {
        "label": ("psl.label", "teacher + audio shards -> label shards"),
        "label_report": ("psl.label_report", "how good pseudo labels are"),
        "review": ("psl.review", "hear and correct doubtful labels in the browser"),
        "calibrate": ("psl.calibrate", "labels -> calibrated on the weak labels"),
        "reorder_labels": (
            "psl.reorder_labels",
            "labels -> the order of another packing of the clips",
        ),
        "import_labels": (
            "psl.import_labels",
            "soft labels of others (Parquet, HDF5) -> label shards",
        ),
        "teachers": (
            "psl.teachers",
            "published AudioSet taggers, fetched by name",
        ),
        "import_checkpoint": (
            "psl.import_checkpoint",
            "published weights -> a checkpoint folder",
        ),
    },
    "train": {
        "train": ("psl.train", "train on weak or pseudo strong labels"),
        "dry_run": ("psl.dry_run", "rehearse a run on many processes, without them"),
        "average": ("psl.average", "average a run's best checkpoints"),
    },
    "use": {
        "tag": ("psl.tag", "what is heard when in files, folders, URLs and streams"),
        "demo": ("psl.demo", "drop or record a sound in the browser, see its tags"),
        "thresholds": ("psl.thresholds", "validation data -> a threshold per class"),
        "adapt": ("psl.adapting", "a model + a few own sounds -> own classes"),
        "embed": ("psl.embed", "audio -> embeddings of its windows"),
        "search": ("psl.search", "the windows most like a sound"),
        "suggest": ("psl.suggest", "which windows to label next"),
        "export": ("psl.export", "a model -> ONNX, Hugging Face, TFLite, safetensors"),
    },
    "look": {
        "status": ("psl.status", "state of a run"),
        "evaluate": ("psl.evaluate", "mAP and other metrics of a checkpoint"),
        "events": ("psl.events", "what sounds from when to when; PSDS and F1"),
        "compare": ("psl.compare", "is one system better than another, or luckier"),
        "report": ("psl.report", "runs -> one page: curves, results, classes, clips"),
    },
}
"""Module and purpose of each command, by what it is for."""
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


def main() -> None:
    """Dispatch to a command; without one, list them."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(_help())
        sys.exit(EXIT_DONE)
    if name == "--version":
        print(f"psl {__version__}")
        sys.exit(EXIT_DONE)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        print(
            f"psl: error: unknown command {name!r}; did you mean {near!r}? psl --help "
            "lists them",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    command = importlib.import_module(COMMANDS[name][0])
    run_main(lambda: command.main(sys.argv[2:]))


def _help() -> str:
    lines = ["usage: psl COMMAND ..."]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:18}{purpose}" for name, (_, purpose) in commands.items()]
    return "\n".join([*lines, "", "psl COMMAND --help says more, psl --version which."])


if __name__ == "__main__":
    main()
