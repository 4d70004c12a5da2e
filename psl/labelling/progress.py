"""How far a labelling job is: done, claimed and left, its speed and the time left.

Owns two small files: ``.parts/job.json``, what there is to do, and ``made.json`` next
to the index, when the set was made and from which folder. The latter is the one file
that differs between two runs; it is kept apart so that all others are the same bytes.
Looking leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from psl.data.labels import count_unlabelled
from psl.labelling.calibration_file import CALIBRATION_NAME, Calibration
from shards import __version__
from shards.dataset.writer import PARTS_NAME, SETTINGS_NAME, DatasetBuilder
from shards.errors import ShardError
from shards.format.index import INDEX_NAME, Index, read_index
from shards.format.schema import parse_json
from shards.remote.places import check_place, is_url, join_place
from shards.system.arguments import Parser
from shards.system.claims import CLAIM_SUFFIX, WORKER_SUFFIX, Held, list_held
from shards.system.exits import EXIT_DONE, EXIT_FAILED, EXIT_RUNNING, typed_name
from shards.system.files import file_system_time, read_bounded, read_plain, write_atomic

JOB_NAME = "job.json"
MADE_NAME = "made.json"
MAX_MADE_BYTES = 1 << 16
"""A longer made.json is refused."""
MAX_JOB_BYTES = 1 << 28
"""A longer job.json is refused."""
SPEED_SECONDS = 900.0
"""The speed is that of the last quarter of an hour."""


@dataclass(frozen=True)
class Progress:
    """Where a job stands; ``--json`` prints it as it is."""

    folder: str
    state: str
    """done; running; or idle: not done, and no process works on it."""
    shards: int
    shards_done: int
    shards_claimed: int
    shards_left: int
    """Neither done nor claimed by a process that seems to live."""
    clips: int
    clips_done: int
    clips_unlabelled: int | None
    """Clips that did not decode; None before the end."""
    workers: int
    """Processes that seem to live, those that wait for others too."""
    claims: list[dict[str, Any]]
    """Shard, holder, age in s of the last sign of life, and whether that is too old."""
    clips_per_second: float | None
    """Of all processes together; None while nothing is known."""
    seconds_left: float | None
    clock: str
    """By which ages are told: that of the file system, on which processes of any
    machine agree; or of this machine, where the folder cannot be written."""


def note_job(builder: DatasetBuilder, index: Index) -> None:
    """Write what there is to do, once a job."""
    path = builder.parts_folder / JOB_NAME
    if not path.exists():
        sizes = {shard.name: shard.num_clips for shard in index.shards}
        with builder.unless_published():
            write_atomic(path, json.dumps(sizes, allow_nan=False))


def note_made(
    builder: DatasetBuilder,
    *,
    audio: str,
    calibration: Calibration | None = None,
    calibrated_from: str | None = None,
) -> None:
    """Write when the set was begun and finished, and the datasets it is made from.

    Their names are kept here, as they may be others for another machine. What the
    labels were calibrated with goes next to it, as calibration.json.
    """
    begun = (builder.parts_folder / SETTINGS_NAME).stat().st_mtime
    facts: dict[str, Any] = {
        "audio": _absolute(audio),
        "begun": _iso(begun),
        "finished": _iso(file_system_time(builder.parts_folder) or time.time()),
        "labelled_by": f"psl {__version__}",
    }
    if calibration is not None:
        facts["calibration"] = {"file": CALIBRATION_NAME, **calibration.provenance}
        write_atomic(builder.folder / CALIBRATION_NAME, calibration.data)
    if calibrated_from is not None:
        facts["calibrated_from"] = _absolute(calibrated_from)
    text = json.dumps(facts, indent=1, allow_nan=False) + "\n"
    write_atomic(builder.folder / MADE_NAME, text)


def _absolute(place: str) -> str:
    return place if is_url(place) else os.path.abspath(place)


def recorded_audio(folder: str | Path) -> str | None:
    """The audio dataset that a label dataset says it was made from; None without one.

    Raises ShardError if what it says cannot be read.
    """
    return recorded(folder, "audio")


def recorded(folder: str | Path, name: str) -> str | None:
    """The dataset that made.json of a label dataset has as ``name``; None without one.

    Raises ShardError if it cannot be read.
    """
    place = join_place(check_place(folder), MADE_NAME)
    if is_url(place) or not Path(place).exists():
        return None
    made = parse_json(read_bounded(place, MAX_MADE_BYTES), where=place)
    found = made.get(name) if isinstance(made, dict) else None
    return found if isinstance(found, str) else None


def audio_of(labels: str) -> str:
    """The audio dataset that a label dataset was made from, as it records.

    ShardError if there is no label dataset; ValueError where its audio is not known,
    or not there any more.
    """
    place = join_place(check_place(labels), MADE_NAME)
    if (audio := recorded_audio(labels)) is None:
        read_index(labels, kind="labels")  # says what is there instead
        raise ValueError(
            f"{place}: does not say which audio dataset these labels were made from; "
            "name it with --audio"
        )
    if not is_url(audio) and not Path(audio, INDEX_NAME).exists():
        raise ValueError(
            f"{place}: the labels were made from {audio}, where no dataset is now; "
            "name it with --audio"
        )
    return audio


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def progress(folder: Path) -> Progress:
    """How the job in ``folder`` stands; ShardError if there is none."""
    if (folder / INDEX_NAME).exists():  # notes of the job may outlive it
        return _finished(folder)
    try:
        sizes = _read_job(folder / PARTS_NAME)
        start = (folder / PARTS_NAME / SETTINGS_NAME).stat().st_mtime
        times = _record_times(folder / PARTS_NAME)
    except (FileNotFoundError, ShardError):
        if (folder / INDEX_NAME).exists():  # just published
            return _finished(folder)
        raise ShardError(
            f"{folder}: no label job was begun there, and no label set is there; "
            "expected the folder that out= of psl.label names"
        ) from None
    now = file_system_time(folder / PARTS_NAME)
    clock = "this machine" if now is None else "file system"
    now = now or time.time()
    claims = list_held(folder / PARTS_NAME, CLAIM_SUFFIX, now=now)
    workers = list_held(folder / PARTS_NAME, WORKER_SUFFIX, now=now).values()
    found = measure(
        sizes, times, claims, list(workers), start=start, now=now, folder=str(folder)
    )
    return replace(found, clock=clock)


def _read_job(parts: Path) -> dict[str, int]:
    """The clips of each shard; ShardError if that was not written, or by another."""
    data = read_plain(parts, JOB_NAME, max_bytes=MAX_JOB_BYTES)
    sizes = parse_json(data, where=str(parts / JOB_NAME))
    if not isinstance(sizes, dict) or not all(type(n) is int for n in sizes.values()):
        raise ShardError(f"{parts / JOB_NAME}: not the shards of a label job")
    return sizes


def measure(
    sizes: dict[str, int],
    times: dict[str, float],
    claims: dict[str, Held],
    workers: Sequence[Held],
    *,
    start: float,
    now: float,
    folder: str,
) -> Progress:
    """A job of shards with ``sizes`` clips, some of them done at ``times``, s.

    ``start`` is when it was begun, all by one clock. Pure but for whether processes of
    this machine are alive.
    """
    done = times.keys() & sizes.keys()
    live = [worker for worker in workers if not worker.is_stale]
    claimed = [n for n, held in claims.items() if n in sizes and not held.is_stale]
    num_claimed = len(set(claimed) - done)
    clips_done = sum(sizes[name] for name in done)
    left = sum(sizes.values()) - clips_done
    joined = [worker.holder.since for worker in live if worker.holder]
    since = max([start, now - SPEED_SECONDS, *([min(joined)] if joined else [])])
    recent = sum(sizes[name] for name in done if times[name] >= since)
    speed = recent / (now - since) if recent and now > since else None
    return Progress(
        folder=folder,
        state="running" if live else "idle",
        shards=len(sizes),
        shards_done=len(done),
        shards_claimed=num_claimed,
        shards_left=len(sizes) - len(done) - num_claimed,
        clips=sum(sizes.values()),
        clips_done=clips_done,
        clips_unlabelled=None,
        workers=len(live),
        claims=[
            {"shard": name, "by": held.name, "age": held.age, "stale": held.is_stale}
            for name, held in sorted(claims.items())
            if name not in done
        ],
        clips_per_second=speed,
        seconds_left=left / speed if speed and live else None,
        clock="file system",
    )


def _record_times(parts: Path) -> dict[str, float]:
    """When each finished shard was recorded, by name."""
    return {
        path.name.removesuffix(".json"): path.stat().st_mtime
        for path in parts.glob("*.tar.json")
    }


def _finished(folder: Path) -> Progress:
    index = read_index(folder, kind="labels")
    return Progress(
        folder=str(folder),
        state="done",
        shards=len(index.shards),
        shards_done=len(index.shards),
        shards_claimed=0,
        shards_left=0,
        clips=len(index),
        clips_done=len(index),
        clips_unlabelled=count_unlabelled(index),
        workers=0,
        claims=[],
        clips_per_second=None,
        seconds_left=0.0,
        clock="file system",
    )


def render(found: Progress) -> str:
    """A progress for people."""
    share = found.clips_done / found.clips if found.clips else 1.0
    lines = [
        f"{found.folder}: {found.state}",
        f"  shards  {found.shards_done:,} done, {found.shards_claimed:,} claimed, "
        f"{found.shards_left:,} left",
        f"  clips   {found.clips_done:,} of {found.clips:,} done ({share:.1%})",
    ]
    if found.clips_unlabelled:
        lines.append(
            f"          {found.clips_unlabelled:,} of them could not be labelled"
        )
    if found.state != "done":
        lines.append(f"  workers {found.workers:,}")
        speed = found.clips_per_second
        lines.append(
            f"  speed   {f'{speed:.1f} clips/s' if speed else 'not known yet'}"
        )
    if found.seconds_left is not None and found.state == "running":
        lines.append(f"  left    about {_duration(found.seconds_left)}")
    for claim in found.claims:
        stale = "; taken to be dead" if claim["stale"] else ""
        lines.append(
            f"  {claim['shard']}: {claim['by']}, seen {claim['age']:.0f} s ago{stale}"
        )
    if found.clock != "file system":
        lines.append(
            f"  times by the clock of {found.clock}, as {found.folder} cannot be "
            "written: wrong by as much as the file server's differs"
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def main(words: Sequence[str]) -> None:
    """The command line of ``python -m psl.label --status``."""
    exits = {"done": EXIT_DONE, "running": EXIT_RUNNING, "idle": EXIT_FAILED}
    codes = ", ".join(f"{state} {code}" for state, code in exits.items())
    parser = Parser(
        prog=typed_name("psl.label"),
        description=f"Show how far a label set is; exits with its state: {codes}.",
        epilog=f"example: {typed_name('psl.label')} --status data/labels_2s",
    )
    parser.add_argument("--status", metavar="DIR", required=True, help="label set")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    args = parser.parse_args(words)
    found = progress(Path(args.status))
    text = json.dumps(asdict(found), indent=1, allow_nan=False)
    print(text if args.json else render(found))
    parser.exit(exits[found.state])
