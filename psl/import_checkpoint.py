r"""Turn weights that others published into a checkpoint folder of ours.

    python -m psl.import_checkpoint Cnn14_16k_mAP=0.438.pth --out runs/cnn14 \
        --classes data/class_labels_indices.csv

Takes upstream's MobileNetV2, PANNs' Cnn14 and AST as its authors saved it, each as a
file of torch.save (.pt, .pth, .bin, Lightning's .ckpt) or safetensors, and AST as a
Hugging Face folder or Hub name. ``psl.label teacher=OUT``,
``psl.evaluate checkpoint=OUT`` and ``psl.train start=OUT`` take the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog=typed_name("psl.import_checkpoint"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="file of torch.save, or Hugging Face AST")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    parser.add_argument(
        "--classes", required=True, help="class_labels_indices.csv in output order"
    )
    parser.add_argument(
        "--partial", action="store_true", help="take what fits, the rest stays random"
    )
    args = parser.parse_args(argv)
    from psl.teachers.importing import import_weights  # loads torch

    import_weights(args.source, args.out, args.classes, partial=args.partial)


if __name__ == "__main__":
    run_main(main)
