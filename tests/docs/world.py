"""The folder in which the pages' commands are run: what readers have when they begin.

Owns every file that a page takes for granted: sounds of 2 s with tones in place of dogs
and rain, their lists, datasets, labels and tiny trained models, all by the names that
the pages use. The project's commands make what they can make.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import yaml

from psl.models.config import MnConfig
from psl.models.families import build_from_config
from psl.teachers.audioset import audioset_classes
from psl.weights.checkpoint import TrainingState, save_checkpoint
from tests.docs import world_files
from tests.docs.running import ROOT, run_command, smaller, timed
from tests.learning import TINY_MODEL

_SMALL_RUN = {
    "model": TINY_MODEL,
    "optim": {"learning_rate": 6e-3},
    "loader": {"threads": 1},
    "log_every": 1,
}
COMMANDS = """
shards.pack --audio wavs --segments train.csv --out data/train
shards.pack --audio wavs --segments train.csv --out data/repacked --seed 1
shards.pack --audio more_wavs --segments more.csv --out data/full
shards.pack --audio lessons --segments lessons.csv --out recipes/balanced
psl.train small.yaml run_dir=runs/teacher data.audio=[data/train] data.valid=data/train
psl.label teacher=runs/teacher audio=data/train out=data/labels_1s chunk_seconds=1
psl.label teacher=runs/teacher audio=data/train out=data/labels_2s chunk_seconds=2
psl.label teacher=runs/teacher audio=data/train out=runs/table/labels_5s chunk_seconds=5
psl.label teacher=runs/teacher audio=data/train out=runs/table/labels_10s
psl.label teacher=runs/teacher audio=data/full out=data/full_2s chunk_seconds=2
psl.label teacher=runs/teacher audio=recipes/balanced out=recipes/labels_2s
    chunk_seconds=2
psl.train small.yaml run_dir=runs/psl_2s data.audio=[data/train] data.valid=data/train
    data.labels=[data/labels_2s]
psl.train configs/mini/base.yaml run_dir=runs/table/teacher data.audio=[data/train]
    data.valid=data/train
psl.evaluate checkpoint=runs/psl_2s audio=data/train out=runs/psl_2s/eval
psl.evaluate checkpoint=runs/teacher audio=data/train out=runs/teacher/eval
psl.export runs/psl_2s --onnx student.onnx
psl.review data/labels_2s --number 3 --export-label-studio studio
"""
"""What makes the folder's datasets and runs, after ``python -m``."""
_PACKING = ("--class-labels", "class_labels_indices.csv", "--workers", "1")
COPIES = {
    "data/train": (
        *("data/eval", "data/balanced", "data/valid", "data/dev"),
        *("data/esc_train", "data/esc_eval", "data/mini-table/shards/balanced"),
    ),
    "data/labels_2s": ("runs/table/labels_2s",),
    "runs/psl_2s": ("runs/student", "runs/mine", "runs/b0", "runs/b1", "runs/b2"),
    "runs/teacher": ("runs/baseline", "runs/psl_5s", "runs/a0", "runs/a1", "runs/a2"),
    "runs/psl_2s/eval": ("evaluations/psl_2s",),
    "runs/teacher/eval": ("evaluations/baseline",),
}
"""More names for what the commands make."""


def build(folder: Path) -> Path:
    """Fill ``folder``, which is the current one."""
    world_files.write(folder)
    for name in ("configs", "launch"):
        (folder / name).symlink_to(ROOT / name)
    _save_published(folder / ".cache" / "psl" / "shards" / "teachers" / "mn04")
    _write_configs(folder)
    for line in COMMANDS.strip().replace("\n    ", " ").split("\n"):
        words = smaller(["python", "-m", *line.split()])
        words += _PACKING if "shards.pack" in words else ()
        with timed(" ".join(words)):
            status = run_command(words)
        assert status == 0, f"{' '.join(words)}: status {status}"
    for made, names in COPIES.items():
        for name in names:
            shutil.copytree(folder / made, folder / name)
    _make_recipes(folder)
    _interrupt(folder / "runs" / "mine")
    _answer(folder)
    return folder


def _write_configs(folder: Path) -> None:
    """small.yaml for the commands above; my.yaml, the reader's own, with 12 steps."""
    small = {**_SMALL_RUN, "global_batch_size": 8, "epochs": 2}
    small["data"] = {"chunk_seconds": 2.0}
    (folder / "small.yaml").write_text(yaml.safe_dump(small))
    data = {"audio": ["data/train"], "valid": "data/valid", "chunk_seconds": 2.0}
    mine = {**_SMALL_RUN, "run_dir": "runs/my", "data": data}
    mine |= {"global_batch_size": 8, "epochs": 4}
    (folder / "my.yaml").write_text(yaml.safe_dump(mine))


def _save_published(folder: Path) -> None:
    """mn04 as ``psl teachers fetch`` leaves it, but with random weights.

    BatchNorm's statistics are those of noise; with fresh ones embeddings would be 0.
    """
    torch.manual_seed(0)
    config, classes = MnConfig(name="mn", width=0.4, pooling="clip"), audioset_classes()
    model = build_from_config(config, len(classes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 32000) * 2 - 1)
    save_checkpoint(
        folder,
        model=model,
        optimizer={},
        model_config=config,
        classes=classes,
        training=TrainingState(0, 0, (), "imported from mn04"),
    )


def _make_recipes(folder: Path) -> None:
    """The datasets that configs/ names: enough audio for a step of 320 s."""
    recipes = folder / "recipes"
    for name, run in (("mini-quick", "demo"), ("audioset", "audioset")):
        shards = folder / "data" / name / "shards"
        shards.mkdir(parents=True)
        (shards / "balanced").symlink_to(recipes / "balanced")
        shutil.copytree(folder / "data" / "train", shards / "dev")
        (folder / "runs" / run).mkdir()
        (folder / "runs" / run / "labels_2s").symlink_to(recipes / "labels_2s")


def _interrupt(run_dir: Path) -> None:
    """Let status.json say what it does after a request to stop."""
    path = run_dir / "status.json"
    status = {**json.loads(path.read_text()), "state": "preempted"}
    path.write_text(json.dumps(status))


def _answer(folder: Path) -> None:
    """Label Studio's export of its tasks, and a labelled table of psl suggest."""
    tasks = json.loads((folder / "studio" / "tasks.json").read_text())
    result = tasks[0]["predictions"][0]["result"]
    tasks[0]["annotations"] = [{"result": result, "was_cancelled": False}]
    for task in tasks[1:]:
        task["annotations"] = []
    (folder / "export.json").write_text(json.dumps(tasks))
    shutil.rmtree(folder / "studio")
