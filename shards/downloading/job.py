"""A download from its list to its summary.

Owns what is still to do, when to slow down, and when to stop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from shards.downloading.crew import Crew
from shards.downloading.ledger import NAME, Ledger, Record, read_ledger
from shards.downloading.problems import MAX_WAIT_SECONDS, Problem
from shards.downloading.video import FetchSettings
from shards.downloading.wanted import Cut, Video, videos_of, write_rows
from shards.system.exits import EXIT_PREEMPTED, JobError
from shards.system.report import write_report

_log = logging.getLogger(__name__)

FOLDER = ".downloading"
"""In the folder of audio; hidden, so that packing passes over it."""
MAX_FAILURES = 50
"""Videos in a row that fail, before the network or yt-dlp is to blame and not they."""


@dataclass(frozen=True)
class Pace:
    """How fast, and how patient."""

    jobs: int = 2
    sleep_seconds: float = 0.0
    video_seconds: float = 1800.0
    backoff_seconds: float = 60.0
    """First pause where the site asks for fewer requests; doubled while it does."""
    max_backoffs: int = 6
    """Pauses in a row, before the download stops."""


@dataclass
class State:
    """The segments of a list, and what is known of each."""

    cuts: Sequence[Cut]
    here: set[str]
    """Names of files that are here."""
    records: dict[str, Record]

    def status(self, cut: Cut) -> str:
        """done, gone, failed, or todo; a file that is here is done."""
        if cut.file_name in self.here:
            return "done"
        record = self.records.get(cut.file_name)
        return "todo" if record is None or record.status == "done" else record.status

    def counts(self) -> dict[str, int]:
        """Segments by status."""
        counts = Counter(self.status(cut) for cut in self.cuts)
        return {name: counts[name] for name in ("done", "gone", "failed", "todo")}

    def wanted(self, *, retry_failed: bool) -> list[Video]:
        """The videos to fetch, with the segments that they lack."""
        status = "failed" if retry_failed else "todo"
        return videos_of(cut for cut in self.cuts if self.status(cut) == status)

    def num_short(self) -> int:
        """Segments whose video ends within them."""
        names = (cut.file_name for cut in self.cuts)
        records = (self.records.get(name) for name in names if name in self.here)
        return sum(r is not None and r.reason.startswith("short") for r in records)


def look(cuts: Sequence[Cut], out: Path) -> State:
    """What of ``cuts`` is in the folder ``out``, and what its ledger knows."""
    here: set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        here = set(os.listdir(out))
    return State(cuts, here, read_ledger(out / NAME))


@dataclass
class _Watch:
    """Counts what goes wrong in a row."""

    pace: Pace
    failures: int = 0
    backoffs: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def see(self, records: Sequence[tuple[Cut, Record]]) -> None:
        """Raises JobError when too many videos in a row have failed."""
        self.backoffs = 0
        failed = [record for _, record in records if record.status == "failed"]
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= MAX_FAILURES:
            raise JobError(
                f"{self.failures} videos in a row failed, the last with: "
                f"{failed[0].reason}; check the network, and that yt-dlp is current "
                "(pip install -U yt-dlp); then run again with --retry-failed"
            )

    def pause_for(self, problem: Problem) -> float:
        """Seconds to wait; raises JobError where waiting has not helped."""
        if problem.kind != "blocked":
            raise JobError(f"{problem.reason}; nothing more can be written")
        if self.backoffs >= self.pace.max_backoffs:
            raise JobError(
                f"the site still refuses after {self.backoffs} pauses: "
                f"{problem.reason}; run the same command again later, with --sleep, "
                "fewer --jobs or --cookies"
            )
        doubled = self.pace.backoff_seconds * 2.0**self.backoffs
        self.backoffs += 1
        return min(max(doubled, problem.wait_seconds or 0.0), MAX_WAIT_SECONDS)


def download(
    state: State,
    settings: FetchSettings,
    pace: Pace,
    *,
    retry_failed: bool = False,
    at_most: int | None = None,
) -> None:
    """Fetch what ``state`` lacks, and keep it up to date.

    Raises JobError on a signal, a full disk, or a site that refuses; what is here by
    then stays.
    """
    with _stoppable(), Ledger(settings.out) as ledger:
        videos = state.wanted(retry_failed=retry_failed)[:at_most]
        total = sum(len(video.cuts) for video in videos)
        crew = Crew(
            settings,
            settings.out / FOLDER,
            pace.jobs,
            pace.sleep_seconds,
            pace.video_seconds,
        )
        watch = _Watch(pace)
        with crew, tqdm(total=total, unit="clip", desc="download") as bar:
            for _, fetched in crew.run(videos):
                if fetched.problem is not None:
                    seconds = watch.pause_for(fetched.problem)
                    _log.warning("%s; waiting %.0f s", fetched.problem.reason, seconds)
                    crew.pause(seconds)
                    continue
                ledger.add(fetched.records)
                _note(state, fetched.records)
                bar.update(len(fetched.records))
                watch.see(fetched.records)


def _note(state: State, records: Sequence[tuple[Cut, Record]]) -> None:
    for cut, record in records:
        state.records[cut.file_name] = record
        if record.status == "done":
            state.here.add(cut.file_name)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM raises JobError meanwhile, as SIGINT raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise JobError.ending_with(
            EXIT_PREEMPTED, "stopped as asked; run the same command again to resume"
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_lists(state: State, out: Path, stem: str) -> tuple[Path, Path]:
    """Write the CSVs of what is here, for packing, and of what is not, with reasons."""
    present, missing = out / f"{stem}.present.csv", out / f"{stem}.missing.csv"
    write_rows(present, [cut for cut in state.cuts if state.status(cut) == "done"])
    lines = []
    for cut in state.cuts:
        if (status := state.status(cut)) != "done":
            record = state.records.get(cut.file_name)
            reason = record.reason if record and status != "todo" else "not tried yet"
            lines.append((cut.key, status, reason))
    write_report(missing, lines)
    return present, missing


def summary(state: State, out: Path) -> dict[str, Any]:
    """Numbers of a download, for people and programs."""
    return {
        "out": str(out),
        "segments": len(state.cuts),
        **state.counts(),
        "short": state.num_short(),
    }
