"""The table of real sound from what psl.evaluate left: means, spreads, intervals.

Owns the arithmetic over seeds and the Markdown. Runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from shards.errors import ShardError
from shards.system.files import write_atomic
from tools.paper.events import events_table
from tools.paper.numbers import TABLES, TEACHER
from tools.paper.real_job import ALL, CHUNKS, SYSTEMS, RealJob
from tools.paper.spread import described, interval

MEASURES = {
    "clip": ("Clip mAP %", "eval", ("mAP",)),
    "windows": ("Clip mAP %, 2-s windows", "eval_windows", ("mAP",)),
    "segments": ("1-s segment mAP %", "eval", ("segments", "mAP")),
    "segments_windows": (
        "1-s segment mAP %, 2-s windows",
        "eval_windows",
        ("segments", "mAP"),
    ),
    "when": (
        "1-s segment mAP % in positive clips",
        "eval",
        ("segments", "mAP_in_positive_clips"),
    ),
}
"""Title, folder and place in its metrics.json of each column."""
OF_CLIPS = ("clip", "windows")
"""Measures whose scores are stored, for an interval over scenes."""
NUM_RESAMPLES = 1000
ORDER = tuple(SYSTEMS)
Values = dict[int, dict[str, float]]
"""By seed, the measures in percent."""


def read_values(job: RealJob) -> dict[str, Values]:
    """What is there of each system, of every seed that was ever run to its end."""
    found: dict[str, Values] = {}
    for folder in sorted(job.root.glob("seed*"), key=lambda path: len(path.name)):
        if not folder.name[4:].isdecimal():
            continue
        for system in ALL:
            values = _read_run(folder / system)
            if values is not None:
                found.setdefault(system, {})[int(folder.name[4:])] = values
    teacher = _read_run(job.root / "teacher")
    return found | ({} if teacher is None else {"teacher": {0: teacher}})


def _read_run(run_dir: Path) -> dict[str, float] | None:
    """The measures of one run; None while one is missing."""
    values = {}
    for name, (_, folder, keys) in MEASURES.items():
        path = run_dir / folder / "metrics.json"
        if not path.exists():
            return None
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
        values[name] = 100 * float(value)
    return values


def chance(job: RealJob) -> float | None:
    """Expected mAP of a guess within positive clips, in percent; None if unknown."""
    for path in sorted(job.root.glob("seed*/*/eval/metrics.json")):
        segments = json.loads(path.read_text(encoding="utf-8")).get("segments", {})
        if (share := segments.get("chance_in_positive_clips")) is not None:
            return 100 * float(share)
    return None


def system_table(values: Mapping[str, Values], rows: Sequence[str]) -> list[str]:
    """A row for each of ``rows`` that was run, a column for each measure."""
    titles = [title for title, *_ in MEASURES.values()]
    lines = [
        f"| System | Paper, AudioSet: mAP % | {' | '.join(titles)} | Seeds |",
        f"|---{'|---' * (len(titles) + 2)}|",
    ]
    for name in rows:
        if name not in values:
            continue
        title = ALL[name].title if name in ALL else "Teacher"
        seeds = values[name].values()
        cells = [described([seed[m] for seed in seeds]) for m in MEASURES]
        count = len(seeds) if name in ALL else "-"
        lines.append(f"| {title} | {_paper(name)} | {' | '.join(cells)} | {count} |")
    return lines


def _paper(system: str) -> str:
    """The paper's mAP on AudioSet, in percent; a dash where it has none."""
    if system == "teacher":
        return f"{TEACHER:.2f}"
    row = TABLES["table2"].rows.get(system)
    return "-" if row is None or row.mean_ap is None else f"{row.mean_ap:.2f}"


def resampled(job: RealJob, system: str, measure: str, seeds: Sequence[int]) -> Any:
    """[NUM_RESAMPLES] mAP in percent of resampled scenes, mean of ``seeds``.

    The same scenes for every system. None if the scores of one are not there.
    """
    from psl.evaluation.bootstrap import resample  # loads torch
    from psl.evaluation.stored import SCORES_NAME, read_scores

    folder, found = MEASURES[measure][1], []
    for seed in seeds:
        path = job.run_dir(system, seed) / folder / SCORES_NAME
        if not path.exists():
            return None
        stored = read_scores(path)
        scores = resample(
            stored.targets, stored.scores, num_resamples=NUM_RESAMPLES, seed=0
        )
        found.append(100 * scores.scalars()["mAP"])
    return sum(found) / len(found)


def over_scenes(
    job: RealJob, pair: tuple[str, str], measure: str, seeds: Sequence[int], mean: float
) -> str:
    """95 % interval of a difference over resampled scenes; a dash if unknown."""
    from psl.evaluation.bootstrap import interval as of_resamples

    both = [resampled(job, system, measure, seeds) for system in pair]
    if any(one is None for one in both):
        return "-"
    limits = of_resamples(mean, both[0] - both[1], bounds=(-100.0, 100.0))
    return "-" if limits is None else f"{limits[0]:+.1f} to {limits[1]:+.1f}"


def difference_table(job: RealJob, values: Mapping[str, Values]) -> list[str]:
    """What each system has more than the one before it, and PSL-2s than the weak one.

    Of the seeds that both have, paired.
    """
    lines = [
        "| Difference | Measure | Mean ± standard deviation | 95 % over seeds | 95 % "
        "over scenes |",
        "|---|---|---|---|---|",
    ]
    for one, two in [*zip(ORDER[1:], ORDER, strict=False), (ORDER[-1], ORDER[0])]:
        both = sorted(values.get(one, {}).keys() & values.get(two, {}).keys())
        for measure, (title, *_) in MEASURES.items():
            if not both:
                continue
            gaps = [values[one][s][measure] - values[two][s][measure] for s in both]
            scenes = "-"
            if measure in OF_CLIPS:
                scenes = over_scenes(job, (one, two), measure, both, fmean(gaps))
            limits = interval(gaps)
            seeds = "-" if limits is None else "{:+.1f} to {:+.1f}".format(*limits)
            spread = f" ± {stdev(gaps):.1f}" if len(gaps) > 1 else ""
            name = f"{ALL[one].title} minus {ALL[two].title}"
            mean = f"{fmean(gaps):+.1f}{spread}"
            lines.append(f"| {name} | {title} | {mean} | {seeds} | {scenes} |")
    return lines


def quality_table(job: RealJob) -> list[str]:
    """How good the labels are, a row for each length of chunks; nothing if unknown."""
    lines = [
        "| Labels | Chance: AP of chunks % | Weak labels, copied | Weak, none missing "
        "| Teacher | Calibration error, raw | calibrated | Missing weak labels "
        "recovered % (precision %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seconds in CHUNKS:
        labels = (job.raw_labels("train", seconds), job.labels("train", seconds))
        paths = [job.quality(one) / "report.json" for one in labels]
        if not all(path.exists() for path in paths):
            return []
        raw, found = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        ap, recovery = found["chunk_ap"], found["recovery"]["at_threshold"]
        cells = [f"{100 * ap[k]:.1f}" for k in ("chance", "weak", "complete", "pseudo")]
        cells += [f"{r['calibration']['expected_error']:.3f}" for r in (raw, found)]
        shares = [100 * (recovery[key] or 0.0) for key in ("recall", "precision")]
        cells.append(f"{shares[0]:.0f} ({shares[1]:.0f})")
        lines.append(f"| {seconds} s | {' | '.join(cells)} |")
    return lines


def verdict(values: Mapping[str, Values], measure: str) -> str:
    """One sentence: whether the paper's order shows in the means of ``measure``."""
    means = [fmean(seed[measure] for seed in values[n].values()) for n in ORDER]
    found = sorted(ORDER, key=lambda name: means[ORDER.index(name)])
    titles = " < ".join(SYSTEMS[name].title for name in found)
    is_order = means == sorted(means)
    words = "the paper's order" if is_order else "not the paper's order"
    return f"{MEASURES[measure][0]}: {titles}; {words}."


def render(job: RealJob) -> str:
    """All that was measured, in Markdown. ShardError if nothing was."""
    values = read_values(job)
    if not values.keys() - {"teacher"}:
        raise ShardError(
            f"{job.root}: no finished student in it; run this without --report first"
        )
    lines = [
        "Mean ± standard deviation of the seeds (95 % confidence interval of the mean, "
        "Student's t). The paper's column is of another data set and teacher: compare "
        "the order, not the heights.",
        "",
        *system_table(values, [*ORDER, "teacher"]),
        "",
    ]
    if (guess := chance(job)) is not None:
        lines += [f"A guess has {guess:.1f} within positive clips.", ""]
    differences = difference_table(job, values)
    if len(differences) > 2:
        lines += [
            "Differences, paired by seed. Over seeds: by Student's t, for other "
            "students on these scenes. Over scenes: by bootstrap, for these students "
            "on other scenes of these recordings.",
            "",
            *differences,
            "",
        ]
    if all(name in values for name in ORDER):
        lines += [*(f"- {verdict(values, measure)}" for measure in MEASURES), ""]
    others = [name for name in ALL if name not in ORDER and name in values]
    if others:
        lines += ["Variants of PSL-2s:", ""]
        lines += [*system_table(values, ["psl_2s", *others]), ""]
    if events := events_table(job.events):
        lines += ["Events in time, found and measured by psl.events:", "", *events, ""]
    if quality := quality_table(job):
        title = "The teacher's labels of the training scenes against the true events:"
        lines += [title, "", *quality, ""]
    return "\n".join(lines)


def write_results(job: RealJob) -> str:
    """Write ROOT/REAL.md and REAL.json; the Markdown."""
    text = render(job)
    write_atomic(job.root / "REAL.md", text)
    values = json.dumps(read_values(job), indent=1)
    write_atomic(job.root / "REAL.json", values + "\n")
    return text
