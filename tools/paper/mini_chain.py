"""The miniature AudioSet, packed, and its teacher, by size.

Owns the sizes (profiles) and the steps that the demonstration and the tables share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.paper.steps import (
    Step,
    evaluate_step,
    global_batch_size,
    num_processes,
    python,
    train_step,
)

CONFIGS = Path("configs/mini")
SPLITS = ("full", "balanced", "dev", "eval")


@dataclass(frozen=True)
class Profile:
    """One size of everything."""

    root: Path
    """Folder of the runs."""
    data: Path
    """Folder of the mini AudioSet."""
    build: tuple[str, ...]
    """How tools/mini/audioset.py is asked for it."""
    teacher_epochs: int
    student_epochs: int | None
    """None for as many as the recipe says."""
    seeds: int
    """Students of each kind; the teacher is trained once."""


PROFILES = {
    "quick": Profile(
        root=Path("runs/demo"),
        data=Path("data/mini-quick"),
        build=("--profile", "quick"),
        teacher_epochs=12,
        student_epochs=15,
        seeds=1,
    ),
    "table": Profile(
        root=Path("runs/table"),
        data=Path("data/mini-table"),
        build=("--profile", "table"),
        teacher_epochs=30,
        student_epochs=40,
        seeds=3,
    ),
    # shows that everything runs; its numbers mean nothing
    "smoke": Profile(
        root=Path("runs/smoke"),
        data=Path("data/mini-smoke"),
        build=("--profile", "quick", "--scale", "0.1"),
        teacher_epochs=1,
        student_epochs=1,
        seeds=1,
    ),
}


def data_steps(profile: Profile) -> list[Step]:
    """Build the mini AudioSet and pack its splits."""
    build = python("-m", "tools.mini.audioset", *profile.build, "--out", profile.data)
    steps = [Step("build the mini AudioSet", build, profile.data / "mini.json")]
    for split in SPLITS:
        out = profile.data / "shards" / split
        command = python(
            *("-m", "shards.pack", "--audio", profile.data / "audio"),
            *("--segments", profile.data / f"{split}_segments.csv"),
            *("--class-labels", profile.data / "class_labels_indices.csv"),
            *("--out", out, "--clips-per-shard", "100"),
        )
        steps.append(Step(f"pack {split}", command, out / "index.json"))
    return steps


def teacher_steps(profile: Profile) -> list[Step]:
    """Train the teacher on everything that has weak labels, and evaluate it."""
    configs = [CONFIGS / "base.yaml", CONFIGS / "teacher.yaml"]
    processes = num_processes(global_batch_size(configs))
    teacher, shards = profile.root / "teacher", profile.data / "shards"
    words = [f"data.valid={shards}/dev", f"epochs={profile.teacher_epochs}"]
    words.append(f"data.audio=[{shards}/full,{shards}/balanced]")
    train = train_step("teacher", teacher, processes, *configs, *words)
    return [train, evaluate_step("teacher", teacher, shards / "eval")]
