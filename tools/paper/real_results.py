"""What the runs on real sound left: means, spreads, intervals.

Owns what is collected of them. Runs nothing; real_tables.py has the Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.system.files import write_atomic
from tools.paper.events import events_table
from tools.paper.page import fill_page
from tools.paper.real_job import ALL, CHUNKS, RealJob
from tools.paper.real_tables import MEASURES, OF_CLIPS, ORDER, PAGE, Real, Seeds, render
from tools.results.stored import measured_now, write_stored

NUM_RESAMPLES = 1000
Values = dict[str, Seeds]
"""By system."""


def read_values(job: RealJob) -> Values:
    """What is there of each system, of every seed that was ever run to its end."""
    found: Values = {}
    for folder in sorted(job.root.glob("seed*"), key=lambda path: len(path.name)):
        if not folder.name[4:].isdecimal():
            continue
        for system in ALL:
            values = _read_run(folder / system)
            if values is not None:
                found.setdefault(system, {})[folder.name[4:]] = values
    teacher = _read_run(job.root / "teacher")
    return found | ({} if teacher is None else {"teacher": {"0": teacher}})


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


def _intervals(
    job: RealJob, pair: tuple[str, str], measure: str, seeds: Sequence[str]
) -> dict[str, list[float] | None]:
    """95 % intervals of a difference in percent, by psl.compare; None if unknown.

    Over scenes alone, on the same resamples for both systems, and over both.
    """
    from psl.evaluation.comparing import compare  # loads torch
    from psl.evaluation.stored import SCORES_NAME

    one, two = (
        [str(job.run_dir(name, int(s)) / MEASURES[measure][1]) for s in seeds]
        for name in pair
    )
    every = [Path(folder, SCORES_NAME) for folder in [*one, *two]]
    if measure not in OF_CLIPS or not all(path.exists() for path in every):
        return {"over_scenes": None, "over_both": None}
    found = compare([two, one], metric="mAP", num_resamples=NUM_RESAMPLES, seed=0)
    (gap,) = found.differences()
    both = None if gap.seed_error is None else [100 * gap.low, 100 * gap.high]
    return {
        "over_scenes": [100 * end for end in gap.over_clips],
        "over_both": both,
    }


def _differences(job: RealJob, values: Mapping[str, Seeds]) -> list[dict[str, Any]]:
    """Gaps of the seeds that both have: each system and the one before it, and ends."""
    found = []
    for pair in [*zip(ORDER[1:], ORDER, strict=False), (ORDER[-1], ORDER[0])]:
        one, two = (values.get(name, {}) for name in pair)
        seeds = sorted(one.keys() & two.keys(), key=int)
        for measure in MEASURES if seeds else ():
            known = _intervals(job, pair, measure, seeds)
            gaps = [one[seed][measure] - two[seed][measure] for seed in seeds]
            found.append({"pair": pair, "measure": measure, "gaps": gaps, **known})
    return found


def _quality(job: RealJob) -> list[dict[str, Any]]:
    """How good the labels are, for each length of chunks; nothing if unknown."""
    rows = []
    for seconds in CHUNKS:
        labels = (job.raw_labels("train", seconds), job.labels("train", seconds))
        paths = [job.quality(one) / "report.json" for one in labels]
        if not all(path.exists() for path in paths):
            return []
        raw, found = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        recovery = found["recovery"]["at_threshold"]
        kinds = ("chance", "weak", "complete", "pseudo")
        rows.append(
            {
                "seconds": seconds,
                "ap": {kind: found["chunk_ap"][kind] for kind in kinds},
                "raw_error": raw["calibration"]["expected_error"],
                "calibrated_error": found["calibration"]["expected_error"],
                "recall": recovery["recall"],
                "precision": recovery["precision"],
            }
        )
    return rows


def collect(job: RealJob) -> Real:
    """All that was measured, as JSON has it. ShardError if nothing was."""
    values = read_values(job)
    if not values.keys() - {"teacher"}:
        raise ShardError(
            f"{job.root}: no finished student in it; run this without --report first"
        )
    return {
        "values": values,
        "chance": chance(job),
        "differences": _differences(job, values),
        "events": events_table(job.events),
        "quality": _quality(job),
    }


def write_results(job: RealJob, page: Path | None) -> str:
    """Write ROOT/REAL.md and REAL.json, and fill ``page``; the Markdown.

    The page's results are in the folder results next to it.
    """
    real = collect(job)
    text = render(real)
    if page is not None:
        fill_page(page, text)
    stored = measured_now(real=real)
    write_stored(job.root / "REAL.json", stored)
    write_atomic(job.root / "REAL.md", text)
    if page is not None:
        folder = page.parent / "results"
        folder.mkdir(exist_ok=True)
        write_stored(folder / f"{PAGE}.json", stored)
    return text
