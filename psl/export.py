r"""Write a trained model in a form that other programs run.

    psl export runs/psl_2s --onnx student.onnx

MODEL is a run folder (its average, else its best checkpoint) or a checkpoint folder.
The result is checked against PyTorch before it gets its name. psl.load opens each of
them but TFLite, and an ONNX file is a teacher: psl.label teacher=student.onnx.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from psl.teachers.named import check_model
from shards.system import log
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=typed_name("psl.export"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="run, checkpoint, or name of a fetched teacher",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    say = target.add_argument
    say("--onnx", metavar="FILE", type=Path, help="ONNX, waveforms in (extra: export)")
    say("--safetensors", metavar="DIR", type=Path, help="the weights alone, checked")
    say("--huggingface", metavar="DIR", type=Path, help="for transformers, with a card")
    say("--tflite", metavar="FILE", type=Path, help="LiteRT (extra: tflite)")
    add("--features", action="store_true", help="ONNX that takes features, not audio")
    add("--int8", choices=("dynamic", "static"), help="ONNX with 8-bit weights")
    add("--calibration-audio", metavar="DATASET", help="for --int8 static")
    add("--audio", metavar="DATASET", help="with --int8: its mAP there, beside float's")
    add("--check", metavar="AUDIO", nargs="+", default=[], help="files to check with")
    add("--seconds", type=float, default=10.0, help="TFLite's length (default 10)")
    add("--teacher", help="who taught it, to be recorded (default: what the run says)")
    add("--license", help="licence of the weights, such as cc-by-4.0, to be recorded")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(argv)
    for flag in ("features", "int8", "calibration_audio", "audio"):
        if getattr(args, flag) and args.onnx is None:
            parser.error(f"--{flag.replace('_', '-')} goes with --onnx")
    if args.calibration_audio and args.int8 != "static":
        parser.error("--calibration-audio goes with --int8 static")
    if args.int8 == "static" and not args.calibration_audio:
        parser.error("--int8 static needs --calibration-audio DATASET")
    if args.audio and not args.int8:
        parser.error("--audio goes with --int8; psl.evaluate measures a float model")
    check_model(args.model)
    log.set_up()
    from psl.exporting.job import export  # loads torch

    export(args)


if __name__ == "__main__":
    run_main(main)
