"""What a path to weights leads to, told by what is there; needs no torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SUFFIXES = (".pt", ".pth", ".pkl", ".bin", ".ckpt", ".safetensors")
"""How files of weights are usually named; what they hold is told by their content."""
ONNX_SUFFIX = ".onnx"
USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What programs call the file of weights in a folder."""
HUB_CONFIG = "config.json"
"""In every folder of a Hugging Face model."""
_RUN_NAMES = ("manifest.json", "state.json", "checkpoints", "result.json", "run.json")


def is_onnx(path: str | Path) -> bool:
    """Whether a path is named like an ONNX file."""
    return Path(path).suffix.lower() == ONNX_SUFFIX and not Path(path).is_dir()


def is_run(path: str | Path) -> bool:
    """Whether a folder is a run or a checkpoint of ours, damaged or not."""
    return any(Path(path, name).exists() for name in _RUN_NAMES)


def is_hub_model(path: str | Path) -> bool:
    """Whether a folder is a Hugging Face model."""
    return not is_run(path) and Path(path, HUB_CONFIG).exists()


def is_file_of_weights(path: str | Path) -> bool:
    """Whether there is a file, or a folder of others with a file of weights in it."""
    if not Path(path).is_dir():
        return Path(path).exists()
    return not (is_run(path) or is_hub_model(path)) and find_file(path) is not None


def find_file(folder: str | Path) -> str | None:
    """The name of the file of weights in a folder.

    None if there is none, or several and none of a usual name.
    """
    for name in USUAL_NAMES:
        if Path(folder, name).exists():
            return name
    with contextlib.suppress(OSError):
        names = [n for n in os.listdir(folder) if Path(n).suffix in SUFFIXES]
        return names[0] if len(names) == 1 else None
    return None
