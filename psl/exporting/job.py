"""What the command psl.export does, for each target."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np

from psl.exporting.about import About, about
from psl.exporting.measure import measure_pair
from psl.exporting.onnx_export import export_onnx
from psl.teachers.named import checkpoint_of
from psl.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from psl.weights.onnx_model import OnnxModel
from shards.audio.decode import load_clip


def export(args: Namespace) -> None:
    """Run the command with its parsed words."""
    checkpoint = load_checkpoint(checkpoint_of(args.model))
    facts = about(checkpoint)
    if facts.origin is not None and args.license is None:
        args.license = facts.origin.license
        print(f"licence {args.license}, of {facts.origin.title}; see --license")
    if args.teacher:
        facts = replace(facts, teacher=args.teacher)
    target = args.onnx or args.safetensors or args.huggingface or args.tflite
    _check_target(target, is_folder=args.onnx is None and args.tflite is None)
    rate = checkpoint.model_config.front_end.sample_rate
    audio = [_read(path, rate) for path in args.check]
    if args.onnx is not None:
        _onnx(args, checkpoint, facts, audio)
    elif args.safetensors is not None:
        save_slim(checkpoint, args.safetensors)
        print(f"{args.safetensors}: {_total(args.safetensors) / 1e6:.2f} MB")
    elif args.huggingface is not None:
        from psl.exporting.huggingface import export_huggingface

        export_huggingface(
            checkpoint, args.huggingface, facts=facts, license=args.license
        )
        print(f"{args.huggingface}: {_total(args.huggingface) / 1e6:.2f} MB")
    else:
        from psl.exporting.tflite import export_tflite

        export_tflite(checkpoint, args.tflite, seconds=args.seconds, audio=audio)


def _read(path: str, rate: int) -> np.ndarray:
    """[N] in [-1, 1]; ValueError if there is no such file."""
    if not Path(path).is_file():
        raise ValueError(f"--check {path}: No such file; name a recording")
    return load_clip(path, sample_rate=rate) / 32768


def _onnx(
    args: Namespace, checkpoint: Checkpoint, facts: About, audio: list[np.ndarray]
) -> None:
    export_onnx(
        checkpoint,
        args.onnx,
        features=args.features,
        int8=args.int8,
        calibration=args.calibration_audio,
        audio=audio,
        teacher=facts.teacher,
        license=args.license,
    )
    if args.audio:
        plain, small = measure_pair(
            checkpoint.build_model(), OnnxModel(args.onnx), args.audio, checkpoint
        )
        print(
            f"{args.audio}: mAP {100 * small.mean_ap:.2f} with {args.int8} int8, "
            f"{100 * plain.mean_ap:.2f} in float32 ({plain.num_clips} clips)"
        )


def save_slim(checkpoint: Checkpoint, out: Path) -> None:
    """A checkpoint folder without the optimizer's state."""
    save_checkpoint(
        out,
        model=checkpoint.build_model(),
        optimizer={},
        model_config=checkpoint.model_config,
        classes=checkpoint.classes,
        training=checkpoint.training,
    )


def _check_target(target: Path, *, is_folder: bool) -> None:
    """ValueError for a place that must not be written over, or cannot be written."""
    if is_folder and target.exists():
        raise ValueError(f"{target}: exists; choose another folder")
    if not is_folder and target.is_dir():
        raise ValueError(f"{target}: is a folder, expected the name of a file")
    if not is_folder and target.exists() and not target.is_file():
        raise ValueError(f"{target}: is not a plain file; choose another name")
    if not target.parent.exists():
        raise ValueError(f"{target.parent}: no such folder; make it first")


def _total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
