"""What the tests of training, labelling and evaluation share."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from psl.models.families import build_from_config
from psl.weights.checkpoint import load_checkpoint

REPOSITORY = Path(__file__).parents[1]
TINY_MODEL: dict[str, Any] = {
    "width": 0.25,
    "last_channels": 32,
    "time_stride": 16,
    "dropout": 0.0,
    "front_end": {"n_fft": 1024, "hop_length": 320, "n_mels": 32, "std_db": 20.0},
}


def tiny_config(
    folder: Path,
    dataset: Path,
    *words: str,
    model: Mapping[str, Any] = TINY_MODEL,
) -> list[str]:
    """Words of ``psl.train``: a run in ``folder``/run on the tiny dataset."""
    values = {
        "run_dir": str(folder / "run"),
        "data": {
            "audio": [str(dataset)],
            "valid": str(dataset),
            "chunk_seconds": 1.0,
        },
        "model": dict(model),
        "optim": {"learning_rate": 6e-3},
        "global_batch_size": 8,
        "epochs": 2,
        "log_every": 1,
        "loader": {"threads": 1},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return [str(path), *words]


def teacher_config(folder: Path, audio: Path) -> list[str]:
    """``tiny_config`` for a teacher whose labels differ from chunk to chunk.

    After an epoch of the few steps that whole seconds make, BatchNorm's statistics are
    near those it began with, and every chunk gets the same label in float16: one clip's
    labels in another's place would go unseen (2026-11-28: 1 different label of 320).
    """
    words = ["epochs=1", "data.chunk_seconds=0.25", "global_batch_size=4"]
    return tiny_config(folder, audio, *words)


def num_different(labels: Path) -> int:
    """How many different rows the chunks of a label dataset have."""
    rows = set()
    for path in labels.glob("*.tar"):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                if name.endswith(".npy"):
                    stream = tar.extractfile(name)
                    assert stream is not None
                    values = np.load(io.BytesIO(stream.read()))
                    rows |= {row.tobytes() for row in values}
    return len(rows)


def torchrun(
    processes: int, module: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """``torchrun --nproc-per-node PROCESSES -m MODULE WORDS...``."""
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", str(processes), "-m", module]
    command = [sys.executable, *launcher, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def losses(run_dir: Path) -> dict[int, float]:
    """The loss of each logged step."""
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {r["step"]: r["loss"] for r in records if "loss" in r}


def state(run_dir: Path) -> str:
    """The state that status.json gives."""
    return json.loads((run_dir / "status.json").read_text())["state"]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """The content of every file below ``folder`` but made.json, which has dates."""
    files = (path for path in folder.rglob("*") if path.is_file())
    files = (path for path in files if path.name != "made.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def distance_moved(run_dir: Path) -> float:
    """The largest way any parameter of the best checkpoint has gone from its start."""
    checkpoint = load_checkpoint(run_dir)
    torch.manual_seed(0)
    fresh = build_from_config(checkpoint.model_config, len(checkpoint.classes))
    return max(
        float((checkpoint.weights[name] - parameter).abs().max().detach())
        for name, parameter in fresh.named_parameters()
    )
