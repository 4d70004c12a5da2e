"""Which commands make a row of a table of the paper.

Owns the steps from data to a measured student. Runs nothing and reads no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.format.index import INDEX_NAME
from tools.paper.mini_chain import Profile, data_steps, teacher_steps
from tools.paper.numbers import TABLES, Row, Table
from tools.paper.steps import (
    Step,
    evaluate_step,
    global_batch_size,
    label_step,
    num_processes,
    train_step,
)

CONFIGS = Path("configs")
FINE = "model.time_stride=4"
"""Frames of 0.16 s; the mini set's students have 0.64 s."""


@dataclass(frozen=True)
class Reproduction:
    """A table of the paper to make with one profile."""

    name: str
    profile: Profile
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    teacher: str | None
    """Who labels, as psl.label takes it; None to train one."""
    paper_protocol: bool = False
    """Whether the training clips choose the checkpoints."""
    fine: bool = False
    """Whether students of the mini set have frames of a quarter of the length."""

    @property
    def table(self) -> Table:
        """The table that the paper has."""
        return TABLES[self.name]

    @property
    def is_mini(self) -> bool:
        """Whether the data is a miniature AudioSet."""
        return bool(self.profile.build)

    def run_dir(self, row: str, seed: int) -> Path:
        """Rows of table 2 share their folders with the demonstration."""
        prefix = "" if self.name == "table2" else f"{self.name}_"
        return self.profile.root / f"seed{seed}" / f"{prefix}{row}{self.suffix}"

    @property
    def suffix(self) -> str:
        """Of the names of what is not made as the table's rows are."""
        protocol = "_paper_protocol" if self.paper_protocol else ""
        return protocol + ("_fine" if self.fine else "")

    @property
    def valid(self) -> str:
        """What chooses the best checkpoints; AudioSet has no set for it."""
        if self.paper_protocol:
            return "train"
        return f"{self.profile.data}/shards/dev" if self.is_mini else "held_out"

    def labels(self, split: str, seconds: int, hop: float | None) -> Path:
        """Folder of a split's labels."""
        infix = "" if split == "balanced" else f"{split}_"
        suffix = "" if hop is None else f"_every_{hop:g}s"
        return self.profile.root / f"labels_{infix}{seconds}s{suffix}"

    def configs(self, row: str) -> list[Path]:
        """The YAML files of a row, later ones on top; the mini set's sizes last."""
        files = [CONFIGS / base / "base.yaml" for base in self.table.bases]
        files.append(CONFIGS / self.name / f"{row}.yaml")
        if self.is_mini:
            files.append(CONFIGS / "mini" / "base.yaml")
            overlay = CONFIGS / "mini" / self.name / f"{row}.yaml"
            files += [overlay] if overlay.exists() else []
        return files


def preparation(job: Reproduction) -> list[Step]:
    """Data, teacher and labels, as far as the rows need them."""
    steps = data_steps(job.profile) if job.is_mini else []
    names = dict.fromkeys(name for row in job.rows for name in with_earlier(job, row))
    rows = [job.table.rows[name] for name in names]
    chunks = dict.fromkeys((row.labels, row.hop) for row in rows if row.labels)
    if not chunks:
        return steps
    shards = job.profile.data / "shards"
    if job.teacher is None:
        steps += teacher_steps(job.profile)
    teacher = job.teacher or str(job.profile.root / "teacher")
    return steps + [
        label_step(teacher, shards / split, job.labels(split, *chunk), *chunk)
        for chunk in chunks
        for split in job.table.splits
    ]


def with_earlier(job: Reproduction, row: str) -> list[str]:
    """A row and those that it starts from, the first one first."""
    after = job.table.rows[row].after
    return [*(with_earlier(job, after) if after else []), row]


def check_audioset(job: Reproduction) -> None:
    """ValueError naming the first split that is not there and how to pack it."""
    for split in (*job.table.splits, "eval"):
        folder = job.profile.data / "shards" / split
        if not (folder / INDEX_NAME).exists():
            raise ValueError(
                f"{folder}: no dataset there; pack it: python -m shards.pack --audio "
                f"AUDIO --segments {split}.csv --class-labels "
                f"class_labels_indices.csv --out {folder}"
            )


def row_steps(job: Reproduction, name: str, seed: int) -> list[Step]:
    """Train and evaluate one student."""
    row, shards = job.table.rows[name], job.profile.data / "shards"
    run_dir, configs = job.run_dir(name, seed), job.configs(name)
    processes = 1 if job.is_mini else num_processes(global_batch_size(configs))
    words = [f"seed={seed}", *_data_words(job, row), f"data.valid={job.valid}"]
    if job.paper_protocol:
        words += ["keep_best=4", "average_best=4"]
    if job.fine:
        words.append(FINE)
    if row.after:
        words.append(f"start={job.run_dir(row.after, seed)}")
    if job.profile.student_epochs:
        epochs = max(round(row.epoch_share * job.profile.student_epochs), 1)
        words.append(f"epochs={epochs}")
    label = f"{run_dir.parent.name}/{run_dir.name}"
    return [
        train_step(label, run_dir, processes, *configs, *words),
        evaluate_step(label, run_dir, shards / "eval"),
    ]


def lanes(job: Reproduction, seed: int) -> list[list[Step]]:
    """Students of one seed that can be trained side by side, the longest first.

    A row and those that it starts from are one lane.
    """
    ways = [with_earlier(job, row) for row in reversed(job.rows)]
    on_the_way = {earlier for way in ways for earlier in way[:-1]}
    return [
        [step for row in way for step in row_steps(job, row, seed)]
        for way in ways
        if way[-1] not in on_the_way
    ]


def _data_words(job: Reproduction, row: Row) -> list[str]:
    """What a row is trained on."""
    splits = job.table.splits
    audio = [str(job.profile.data / "shards" / split) for split in splits]
    words = [f"data.audio=[{','.join(audio)}]"]
    if row.labels is not None:
        labels = [str(job.labels(split, row.labels, row.hop)) for split in splits]
        words.append(f"data.labels=[{','.join(labels)}]")
    return words
