"""One table of the paper from end to end: teacher, labels, students, and the result.

Runs psl's own commands one after the other, skips those whose result is there, and
sets what was measured next to what the paper reports. Owns which commands make a row.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.format.index import INDEX_NAME, open_index
from shards.system.exits import run_main
from shards.system.files import write_atomic
from tools.paper import real
from tools.paper.mini_chain import PROFILES, Profile, data_steps, teacher_steps
from tools.paper.numbers import TABLES, Row, Table
from tools.paper.results import Summary, paper_table, summarise, with_dev
from tools.paper.steps import (
    Chain,
    Step,
    evaluate_step,
    global_batch_size,
    label_step,
    num_processes,
    train_step,
)
from tools.results.stored import measured_now, write_stored

CONFIGS = Path("configs")
AUDIOSET = Profile(
    root=Path("runs/audioset"),
    data=Path("data/audioset"),
    build=(),
    teacher_epochs=0,
    student_epochs=None,
    seeds=3,
)
"""The real one, at the recipes' own length; nothing is built or downloaded, and no
teacher trained."""


@dataclasses.dataclass(frozen=True)
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
        """Of the names of what is chosen as the paper's program chose it."""
        return "_paper_protocol" if self.paper_protocol else ""

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


def read_results(job: Reproduction) -> Summary:
    """What is there of the table, of every row and seed that was ever run."""
    found: dict[str, list[Path]] = {}
    folders = {row: job.run_dir(row, 0).name for row in job.table.rows}
    for row, folder in folders.items():
        paths = job.profile.root.glob(f"seed*/{folder}/eval/metrics.json")
        found[row] = sorted(paths, key=lambda path: int(path.parts[-4][4:]))
    teacher = job.profile.root / "teacher" / "eval" / "metrics.json"
    found["teacher"] = [teacher] if teacher.exists() else []
    texts = {row: [path.read_text("utf-8") for path in found[row]] for row in found}
    summary = summarise({system: of for system, of in texts.items() if of})
    runs = {row: [path.parents[1] for path in paths] for row, paths in found.items()}
    return with_dev(summary, runs)


def report(job: Reproduction) -> str:
    """Write ROOT/TABLE.md and .json; the Markdown."""
    summary = read_results(job)
    evaluation = open_index(job.profile.data / "shards" / "eval", kind="audio")
    kind = "the miniature set" if job.is_mini else str(job.profile.data)
    where = (
        f"{kind}, {len(evaluation.classes)} classes, {len(evaluation)} evaluation clips"
    )
    text = paper_table(job.name, summary, where)
    write_atomic(job.profile.root / f"{job.name}{job.suffix}.md", text)
    stored = measured_now(systems=summary)
    write_stored(job.profile.root / f"{job.name}{job.suffix}.json", stored)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.paper.reproduce",
        description=__doc__,
        epilog="example: python -m tools.paper.reproduce table2 --data data/mini-table "
        "--rows baseline,psl_2s --seeds 0,1,2; for real sound: python -m "
        "tools.paper.reproduce real --help",
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with shards/full, balanced, dev and eval; the mini set is built "
        "there if it is not (default: the profile's)",
    )
    parser.add_argument(
        "--profile",
        choices=["table", "smoke", "audioset"],
        default="table",
        help="the mini set (table), a shorter one whose numbers mean nothing (smoke), "
        "or AudioSet at full length",
    )
    parser.add_argument("--rows", help="such as psl_5s,psl_2s (default: all)")
    parser.add_argument("--seeds", help="such as 0,1,2 (default: the profile's)")
    parser.add_argument("--jobs", type=int, default=1, help="students at a time")
    parser.add_argument("--root", type=Path, help="folder of the runs")
    parser.add_argument(
        "--teacher",
        help="who labels, as for psl.label (default: one is trained on the mini set)",
    )
    parser.add_argument(
        "--paper-protocol",
        action="store_true",
        help="choose checkpoints on the training clips, as the paper's program did",
    )
    parser.add_argument(
        "--print", action="store_true", help="show the commands and run none of them"
    )
    return parser


def _job(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Reproduction:
    """What the command line asks for."""
    profile = AUDIOSET if args.profile == "audioset" else PROFILES[args.profile]
    profile = dataclasses.replace(
        profile, data=args.data or profile.data, root=args.root or profile.root
    )
    known = TABLES[args.table].rows
    rows = tuple(args.rows.split(",")) if args.rows else tuple(known)
    if unknown := [row for row in rows if row not in known]:
        parser.error(f"--rows {unknown[0]}: {args.table} has {', '.join(known)}")
    labelled = [row for row in rows if known[row].labels]
    if labelled and args.profile == "audioset" and args.teacher is None:
        parser.error(
            f"--rows {labelled[0]} needs --teacher: a run folder or a checkpoint of a "
            "teacher; how the published one was trained is not known"
        )
    seeds = args.seeds.split(",") if args.seeds else range(profile.seeds)
    if not all(str(seed).isdecimal() for seed in seeds):
        parser.error(f"--seeds {args.seeds}: expected numbers, such as 0,1,2")
    return Reproduction(
        name=args.table,
        profile=profile,
        rows=rows,
        seeds=tuple(map(int, seeds)),
        teacher=args.teacher,
        paper_protocol=args.paper_protocol,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.paper.reproduce``."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "real":
        real.main(words[1:])
        return
    parser = _parser()
    args = parser.parse_args(argv)
    job = _job(parser, args)
    first = preparation(job)
    students = [lane for seed in job.seeds for lane in lanes(job, seed)]
    if args.print:
        for step in [*first, *(step for steps in students for step in steps)]:
            print(shlex.join(["python", *step.command[1:]]))
        return
    if not job.is_mini:
        check_audioset(job)
    chain = Chain(job.profile.root)
    chain.run(first)
    chain.run_lanes(students, lanes=args.jobs)
    print(report(job))


if __name__ == "__main__":
    run_main(main)
