"""The words of ``psl adapt``. What loads torch is imported late."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psl.adapting.request import HEADS_NAME, check_request
from shards.system.arguments import Parser
from shards.system.exits import typed_name

_EXAMPLES = """examples:
  psl adapt mn04 --sounds sounds --out runs/own
  psl adapt runs/student --sounds sounds --background street --out runs/own
  psl adapt runs/own --sounds sounds --labelled to_label.csv --out runs/own2
then:
  psl tag runs/own yard.wav --window 2 --thresholds runs/own/thresholds.json
"""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=typed_name("psl.adapting", short="adapt"),
        description="Teach a trained model classes of your own, from a few examples of "
        "each. The sounds of each class are the audio files of a folder with its name.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="run or checkpoint folder, or fetched teacher")
    add("--sounds", metavar="DIR", help="folder with a folder for each class")
    add("--labelled", metavar="CSV", help="table of psl suggest with labels filled in")
    add("--background", metavar="DIR", help="sounds that are none of the classes")
    add("--out", metavar="DIR", required=True, help="run folder to make")
    add(
        "--keep-old-classes",
        action="store_true",
        help="add the new classes to those of the model (default: replace them)",
    )
    add(
        "--finetune",
        action="store_true",
        help="then train all layers by psl.train's loop (default: the last alone)",
    )
    add("--epochs", type=int, metavar="N", help="with --finetune (default 30)")
    add(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="windows that the model hears (default 2)",
    )
    add("--device", help="cpu, cuda, ... (default: the GPU, if any)")
    add("--json", action="store_true", help="print adapt.json instead of a table")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.adapting``."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.sounds is None and args.labelled is None:
        parser.error("give --sounds DIR, --labelled CSV, or both")
    if args.epochs is not None and not args.finetune:
        parser.error("--epochs goes with --finetune")
    check_request(
        args.model,
        args.out,
        places=(args.sounds, args.labelled, args.background),
        seconds=args.seconds,
        keep=args.keep_old_classes,
        finetune=args.finetune,
    )
    from psl.adapting.job import adapt  # loads torch

    adapt(
        args.model,
        args.sounds,
        out=args.out,
        background=args.background,
        labelled=args.labelled,
        keep_old_classes=args.keep_old_classes,
        finetune=args.finetune,
        epochs=args.epochs,
        seconds=args.seconds,
        device=args.device,
    )
    folder = Path(args.out, HEADS_NAME) if args.finetune else Path(args.out)
    text = (folder / "adapt.json").read_text(encoding="utf-8")
    print(text if args.json else _table(json.loads(text), args.out))


def _table(facts: dict[str, Any], out: str) -> str:
    """The classes with their numbers, for people."""
    lines = [f"{'class':30} {'examples':>8} {'AP %':>6} {'threshold':>9}"]
    for entry in facts["classes"]:
        ap, threshold = entry["AP"], entry["threshold"]
        shown = "-" if ap is None else f"{100 * ap:.1f}"
        least = "-" if threshold is None else f"{threshold:.3f}"
        lines.append(
            f"{entry['name'][:30]:30} {entry['num_examples']:8} {shown:>6} {least:>9}"
        )
    lines.append(f"background: {facts['num_background']} examples")
    if facts["num_rejected"]:
        lines.append(f"rejected: {facts['num_rejected']}, see rejected.csv")
    if facts["mAP"] is None:
        lines.append("nothing could be held out: no class has two recordings")
    else:
        lines.append(
            f"mAP {100 * facts['mAP']:.2f} % by cross validation over recordings "
            f"({facts['num_held_out']} held-out examples)"
        )
    return "\n".join([*lines, f"{out}: the model, its thresholds and confusions"])
