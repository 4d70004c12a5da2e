"""The whole chain on one machine, from the mini AudioSet to a table of students.

Runs the commands a user would run, prints each of them, and skips those whose result
is there. Owns the profiles and the order of the steps; every step is a command of its
own, so that each can be tried alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shards.cli import JobError, run_main

CONFIGS = Path("configs/mini")
SPLITS = ("full", "balanced", "dev", "eval")
STUDENTS = {"baseline": None, "psl_10s": 10, "psl_5s": 5, "psl_2s": 2}
"""Chunk length of each student's pseudo labels, s; None for weak labels."""


@dataclass(frozen=True)
class Profile:
    """One size of the demonstration."""

    root: Path
    """Folder of the runs."""
    data: Path
    """Folder of the mini AudioSet."""
    build: tuple[str, ...]
    """How tools/mini_audioset.py is asked for it."""
    teacher_epochs: int
    student_epochs: int
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
        seeds=2,
    ),
}


@dataclass(frozen=True)
class Step:
    """One command and the file that shows it is done."""

    name: str
    command: list[str]
    result: Path


def _python(*words: str | Path) -> list[str]:
    return [sys.executable, *map(str, words)]


def _data_steps(profile: Profile) -> list[Step]:
    build = _python("tools/mini_audioset.py", *profile.build, "--out", profile.data)
    steps = [Step("build the mini AudioSet", build, profile.data / "mini.json")]
    for split in SPLITS:
        out = profile.data / "shards" / split
        command = _python(
            *("-m", "shards.pack", "--audio", profile.data / "audio"),
            *("--segments", profile.data / f"{split}_segments.csv"),
            *("--class-labels", profile.data / "class_labels_indices.csv"),
            *("--out", out, "--clips-per-shard", "100"),
        )
        steps.append(Step(f"pack {split}", command, out / "index.json"))
    return steps


def _train_step(
    profile: Profile, run_dir: Path, config: str, processes: int, *words: str
) -> Step:
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", str(processes)]
    command = _python(
        *(launcher if processes > 1 else []),
        *("-m", "psl.train", CONFIGS / "base.yaml", CONFIGS / f"{config}.yaml"),
        *(f"run_dir={run_dir}", f"data.valid={profile.data}/shards/dev", *words),
    )
    return Step(f"train {config}", command, run_dir / "result.json")


def _label_step(profile: Profile, out: str, split: str, chunk_seconds: int) -> Step:
    command = _python(
        *("-m", "psl.label", f"teacher={profile.root}/teacher"),
        *(f"audio={profile.data}/shards/{split}", f"out={profile.root}/{out}"),
        f"chunk_seconds={chunk_seconds}",
    )
    name = f"label {split} every {chunk_seconds} s"
    return Step(name, command, profile.root / out / "index.json")


def _evaluate_step(profile: Profile, run_dir: Path) -> Step:
    command = _python(
        *("-m", "psl.evaluate", f"checkpoint={run_dir}", f"out={run_dir}/eval"),
        f"audio={profile.data}/shards/eval",
    )
    name = f"evaluate {run_dir.relative_to(profile.root)}"
    return Step(name, command, run_dir / "eval" / "metrics.json")


def _teacher_steps(profile: Profile, processes: int) -> list[Step]:
    teacher = profile.root / "teacher"
    shards = profile.data / "shards"
    audio = f"data.audio=[{shards}/full,{shards}/balanced]"
    epochs = f"epochs={profile.teacher_epochs}"
    return [
        _train_step(profile, teacher, "teacher", processes, audio, epochs),
        *(
            _label_step(profile, f"labels_{seconds}s", "balanced", seconds)
            for seconds in STUDENTS.values()
            if seconds
        ),
        _label_step(profile, "labels_eval_2s", "eval", 2),
        _evaluate_step(profile, teacher),
    ]


def _student_steps(profile: Profile, student: str, seed: int) -> list[Step]:
    run_dir = profile.root / f"seed{seed}" / student
    words = [f"seed={seed}", f"epochs={profile.student_epochs}"]
    words.append(f"data.audio=[{profile.data}/shards/balanced]")
    if STUDENTS[student]:
        words.append(f"data.labels=[{profile.root}/labels_{STUDENTS[student]}s]")
    train = _train_step(profile, run_dir, student, 1, *words)
    return [train, _evaluate_step(profile, run_dir)]


class Chain:
    """Runs steps, with their output in ``root/logs``, and says how each one went."""

    def __init__(self, root: Path) -> None:
        self._logs = root / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def say(self, text: str) -> None:
        """Print a line with the minutes since the start."""
        minutes, seconds = divmod(round(time.monotonic() - self._start), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)

    def run(self, steps: Sequence[Step], *, show: bool = True) -> None:
        """Run steps one after the other; ``show`` their progress bars, too.

        Raises JobError with the end of the output of a step that fails.
        """
        for step in steps:
            if step.result.exists():
                self.say(f"{step.name}: done already ({step.result})")
                continue
            self.say(f"{step.name}: {shlex.join(['python', *step.command[1:]])}")
            log = self._logs / f"{'-'.join(step.result.parent.parts)}.log"
            with open(log, "w", encoding="utf-8") as stream:
                status = subprocess.run(
                    step.command,
                    env=self._environment,
                    stdout=stream,
                    stderr=None if show else stream,
                ).returncode
            if status:
                tail = log.read_text(encoding="utf-8")[-2000:]
                raise JobError(f"{step.name} failed ({status}), see {log}: {tail}")

    def run_lanes(self, chains: Sequence[Sequence[Step]], lanes: int) -> None:
        """Run several chains of steps, ``lanes`` at a time."""
        with ThreadPoolExecutor(lanes) as pool:
            tasks = [pool.submit(self.run, steps, show=False) for steps in chains]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _num_processes() -> int:
    """As many as there are GPUs and the batch of 16 can be shared by; two on a CPU."""
    import torch  # slow, and only this function needs it

    gpus = torch.cuda.device_count()
    return max(n for n in (1, 2, 4, 8, 16) if n <= gpus) if gpus else 2


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python tools/demo.py``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python tools/demo.py --profile quick"
    )
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    profile = PROFILES[parser.parse_args(argv).profile]
    chain = Chain(profile.root)
    chain.run(_data_steps(profile))
    chain.run(_teacher_steps(profile, processes=_num_processes()))
    students = [
        _student_steps(profile, student, seed)
        for seed in range(profile.seeds)
        for student in reversed(STUDENTS)  # the longest first, so that lanes end even
    ]
    chain.say(f"{len(students)} students, two at a time; output in {profile.root}/logs")
    chain.run_lanes(students, lanes=2)
    report = _python("tools/report.py", profile.root, "--data", profile.data)
    if subprocess.run(report).returncode:
        raise JobError("the report failed; its error stands above")
    chain.say(f"table and pictures are in {profile.root}/report")


if __name__ == "__main__":
    run_main(main)
