"""The command that fits a threshold for each class on validation data.

Owns its words; psl/tagging/thresholds.py fits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from psl.teachers.named import check_model
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.thresholds")
    parser = Parser(
        prog=name,
        description="Fit the threshold of each class on clips with true labels, for "
        "psl tag --thresholds.",
        epilog=f"example: {name} runs/student --audio data/valid --out thresholds.json",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="run folder or checkpoint folder")
    add("--audio", required=True, metavar="DATASET", help="dataset with true labels")
    add("--out", required=True, type=Path, metavar="FILE", help="JSON file to write")
    add(
        "--precision",
        type=float,
        metavar="P",
        help="the lowest threshold of each class at which at least this share of what "
        "is reported is true (default: the threshold with the highest F1)",
    )
    add("--batch-size", type=int, default=32, metavar="N", help="clips (default 32)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.thresholds``."""
    args = _parser().parse_args(argv)
    if args.precision is not None and not 0 < args.precision <= 1:
        raise ValueError(f"--precision {args.precision:g}: expected above 0, up to 1")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size}: expected 1 or more")
    check_model(args.model)
    # imported late, so that --help is quick
    import numpy as np
    from accelerate import Accelerator

    from psl.data.checks import check_fits, check_has_labels
    from psl.data.config import LoaderConfig
    from psl.evaluation.scoring import score_clips
    from psl.tagger import load
    from psl.tagging.thresholds import fit_classes
    from shards.format.index import open_index
    from shards.system.files import write_atomic

    index = open_index(args.audio, kind="audio")
    check_has_labels(index, "fit thresholds on")
    accelerator = Accelerator()
    tagger = load(args.model, device=accelerator.device)
    check_fits(
        index,
        sample_rate=tagger.sample_rate,
        classes=tagger.classes,
        what=str(args.model),
    )
    scores = score_clips(
        tagger.model,
        index,
        accelerator,
        batch_size=args.batch_size,
        loader=LoaderConfig(),
    )
    targets = index.table.weak_targets(np.arange(len(index)), len(index.classes))
    found = fit_classes(targets, scores, index.classes, precision=args.precision)
    write_atomic(args.out, json.dumps(found, indent=1, allow_nan=False) + "\n")
    fitted = found["thresholds"].values()
    without = sum(entry["threshold"] is None for entry in fitted)
    line = f"{args.out}: thresholds of {len(fitted)} of {len(index.classes)} classes"
    if without:
        line += f"; {without} reach no such precision and will not be reported"
    print(line)


if __name__ == "__main__":
    run_main(main)
