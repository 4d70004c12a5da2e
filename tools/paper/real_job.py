"""What the table of real sound is made of: commands, folders, systems.

Owns which commands make which row. Runs nothing and reads no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.format.index import INDEX_NAME
from tools.paper.events import EventsJob
from tools.paper.steps import Step, label_step, python, train_step

CONFIGS = (Path("configs/mini/base.yaml"), Path("configs/real/base.yaml"))
SPLITS = ("train", "dev", "eval")
CHUNKS = (10, 5, 2)
"""Lengths of the chunks that the teacher labels, s."""
WINDOW_SECONDS = 2
"""Of the second measure of each system."""


@dataclass(frozen=True)
class System:
    """A student."""

    title: str
    labels: int | None
    """Length of the chunks that the teacher labels for it, s; None for weak labels."""
    words: tuple[str, ...] = ()
    """What its recipe has on top of the common one."""


_FAST, _SLOW = "optim.learning_rate=6.0e-3", "optim.learning_rate=1.2e-3"
SYSTEMS = {
    "baseline": System("Weak baseline", None),
    "psl_10s": System("PSL-10s", 10),
    "psl_5s": System("PSL-5s", 5),
    "psl_2s": System("PSL-2s", 2, (_FAST,)),
}
"""The rows of the table; the rates were chosen on dev."""
EXPERIMENTS = {
    "psl_2s_raw": System("PSL-2s, labels not calibrated", 2, (_FAST,)),
    "psl_2s_8": System("PSL-2s, 8 chunks a step", 2, (_FAST, "batch_seconds=16")),
    "psl_2s_8_slow": System(
        "PSL-2s, 8 chunks a step, a fifth of the learning rate",
        2,
        (_SLOW, "batch_seconds=16"),
    ),
    "psl_2s_8x5": System(
        "PSL-2s, 5 times 8 chunks a step", 2, (_FAST, "accumulation_steps=5")
    ),
}
"""Students that show what matters, made if they are asked for."""
ALL = SYSTEMS | EXPERIMENTS


@dataclass(frozen=True)
class RealJob:
    """One table of real sound."""

    recordings: Path
    data: Path
    """Folder of the scenes."""
    root: Path
    """Folder of the runs."""
    teacher: str
    teacher_rate: int | None
    """Of a teacher that psl.evaluate can measure, Hz; None for other kinds."""
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    scale: float
    """On the number of scenes."""
    epochs: int | None
    """None for the recipe's."""

    def shards(self, split: str) -> Path:
        """The packed scenes of a split."""
        return self.data / "shards" / split

    def raw_labels(self, split: str, seconds: int) -> Path:
        """What the teacher says."""
        return self.root / f"labels_raw_{split}_{seconds}s"

    def labels(self, split: str, seconds: int) -> Path:
        """The same, calibrated."""
        return self.root / f"labels_{split}_{seconds}s"

    def quality(self, labels: Path) -> Path:
        """What a label report says of ``labels``."""
        return self.root / "quality" / labels.name

    @property
    def events(self) -> EventsJob:
        """What is measured of events in time."""
        return EventsJob(
            root=self.root,
            audio=self.shards("eval"),
            dev=self.shards("dev"),
            strong=self.data / "strong.csv",
            titles={name: system.title for name, system in SYSTEMS.items()},
        )

    def run_dir(self, system: str, seed: int) -> Path:
        """Of a student."""
        return self.root / f"seed{seed}" / system


def data_steps(job: RealJob) -> list[Step]:
    """Mix the scenes and pack them; eval also at the teacher's rate."""
    words = ["--recordings", job.recordings, "--out", job.data, "--scale", job.scale]
    build = python("-m", "tools.mini.real", *map(str, words))
    steps = [Step("mix scenes", build, job.data / "real.json")]
    packs: list[tuple[str, str, list[str]]] = [(s, s, []) for s in SPLITS]
    if job.teacher_rate is not None:
        rate = ["--sample-rate", str(job.teacher_rate)]
        packs.append(("eval", "eval_for_teacher", rate))
    for split, name, options in packs:
        command = python(
            *("-m", "shards.pack", "--audio", job.data / "audio"),
            *("--segments", job.data / f"{split}_segments.csv"),
            *("--class-labels", job.data / "class_labels_indices.csv"),
            *("--out", job.shards(name), "--clips-per-shard", "100"),
            *options,
        )
        steps.append(Step(f"pack {name}", command, job.shards(name) / INDEX_NAME))
    return steps


def label_steps(job: RealJob) -> list[Step]:
    """The teacher's labels of train, calibrated on its weak labels; eval's, to look at.

    Those of eval have the calibration of train.
    """
    steps = [
        label_step(
            job.teacher, job.shards("train"), job.raw_labels("train", seconds), seconds
        )
        for seconds in CHUNKS
    ]
    for seconds in CHUNKS:
        raw, train = job.raw_labels("train", seconds), job.labels("train", seconds)
        command = python(
            *("-m", "psl.calibrate", f"labels={raw}", f"audio={job.shards('train')}"),
            f"out={train}",
        )
        name = f"calibrate train, {seconds} s"
        steps.append(Step(name, command, train / INDEX_NAME))
        audio, out = job.shards("eval"), job.labels("eval", seconds)
        step = label_step(job.teacher, audio, out, seconds)
        words = [*step.command, f"calibration={train}"]
        steps.append(Step(step.name, words, step.result))
    return steps


def quality_steps(job: RealJob) -> list[Step]:
    """Measure the labels of train against the true events, before calibration too."""
    steps = []
    for seconds in CHUNKS:
        for labels in (job.raw_labels("train", seconds), job.labels("train", seconds)):
            out = job.quality(labels)
            command = python(
                *("-m", "psl.label_report", labels, "--audio", job.shards("train")),
                *("--strong", job.data / "strong.csv", "--out", out, "--no-pictures"),
            )
            steps.append(Step(f"measure {labels.name}", command, out / "report.json"))
    return steps


def teacher_steps(job: RealJob) -> list[Step]:
    """Measure the teacher as the students are measured, where that is possible."""
    if job.teacher_rate is None:
        return []
    audio, out = job.shards("eval_for_teacher"), job.root / "teacher"
    return _evaluate_steps(job, "teacher", job.teacher, audio, out, "classes=shared")


def system_steps(job: RealJob, name: str, seed: int) -> list[Step]:
    """Train and measure one student."""
    system, run_dir = ALL[name], job.run_dir(name, seed)
    words = [f"seed={seed}", f"data.audio=[{job.shards('train')}]"]
    words.append(f"data.valid={job.shards('dev')}")
    if system.labels:
        labels = job.labels("train", system.labels)
        if name == "psl_2s_raw":
            labels = job.raw_labels("train", system.labels)
        words.append(f"data.labels=[{labels}]")
        words.append(f"data.chunk_seconds={system.labels}")
    words += system.words
    if job.epochs is not None:
        words.append(f"epochs={job.epochs}")
    label = f"seed{seed}/{name}"
    return [
        train_step(label, run_dir, 1, *CONFIGS, *words),
        *_evaluate_steps(job, label, run_dir, job.shards("eval"), run_dir),
    ]


def _evaluate_steps(
    job: RealJob, name: str, checkpoint: Path | str, audio: Path, out: Path, *more: str
) -> list[Step]:
    """On whole clips, and in windows; both with segments against the true events."""
    steps = []
    windows = f"window_seconds={WINDOW_SECONDS}"
    for folder, words in (("eval", []), ("eval_windows", [windows])):
        command = python(
            *("-m", "psl.evaluate", f"checkpoint={checkpoint}", f"audio={audio}"),
            *(f"out={out}/{folder}", f"strong={job.data}/strong.csv", *words, *more),
        )
        result = out / folder / "metrics.json"
        steps.append(Step(f"evaluate {name} {' '.join(words)}", command, result))
    return steps
