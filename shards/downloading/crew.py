"""Processes that fetch videos, each of which can be ended at any time.

Owns who fetches what until when. yt-dlp runs in processes because its work keeps Python
busy, and a server that sends a byte a second can hold a thread for hours.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from shards.downloading.ledger import Record
from shards.downloading.video import Fetched, FetchSettings, fetch_video
from shards.downloading.wanted import Video
from shards.system.exits import JobError
from shards.system.workers import end_with_parent

_LOOK_SECONDS = 1.0
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["shards.downloading.video", "yt_dlp"])
"""Each process has the packages at once, also one that replaces another."""


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    video: Video | None = None
    began: float = 0.0
    is_ready: bool = False
    """Whether it has said so, after its start."""
    free_at: float = 0.0
    """When it may begin with the next video, by time.monotonic."""


@dataclass
class Crew:
    """``jobs`` processes; a context manager that leaves none of them behind."""

    settings: FetchSettings
    folder: Path
    """For what is being fetched; emptied before and after."""
    jobs: int
    sleep_seconds: float = 0.0
    """Each job's pause between two videos."""
    video_seconds: float = 1800.0
    """A video that takes longer has failed."""
    _workers: list[_Worker] = field(default_factory=list)
    _resume_at: float = 0.0

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pause(self, seconds: float) -> None:
        """Begin no video for so long."""
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    def run(self, videos: Sequence[Video]) -> Iterator[tuple[Video, Fetched]]:
        """What became of each video, as soon as that is known.

        One that the site, or this machine, did not let through is tried again, after
        the others that wait; the caller may pause or stop.
        """
        todo = deque(videos)
        while len(self._workers) < min(self.jobs, len(todo)):
            self._workers.append(self._start(len(self._workers)))
        while todo or any(worker.video for worker in self._workers):
            self._give(todo)
            for worker in self._ready():
                video = worker.video
                if video is None:
                    _greet(worker)
                    continue
                fetched = self._take(worker, video)
                if fetched.problem is not None:
                    todo.append(video)
                yield video, fetched

    def _give(self, todo: deque[Video]) -> None:
        now = time.monotonic()
        for worker in self._workers:
            ready_at = max(worker.free_at, self._resume_at)
            if worker.is_ready and not worker.video and todo and now >= ready_at:
                worker.video, worker.began = todo.popleft(), now
                with contextlib.suppress(OSError):  # a dead one is found when it ends
                    worker.pipe.send(worker.video)

    def _ready(self) -> list[_Worker]:
        """Workers that have finished, started, died or run out of time."""
        busy = [w for w in self._workers if w.video or not w.is_ready]
        now = time.monotonic()
        events = [w.began + self.video_seconds for w in busy if w.video]
        events += [w.free_at for w in self._workers if not w.video]
        times = [at - now for at in (*events, self._resume_at) if at > now]
        seconds = min([_LOOK_SECONDS, *times])
        if any(w.video and w.began + self.video_seconds <= now for w in busy):
            seconds = 0.0
        if not busy:
            time.sleep(seconds)
            return []
        heard = wait([w.pipe for w in busy], seconds)
        late = time.monotonic() - self.video_seconds
        return [w for w in busy if w.pipe in heard or (w.video and w.began <= late)]

    def _take(self, worker: _Worker, video: Video) -> Fetched:
        """The result of a worker that is ready; a dead or late one is replaced."""
        worker.video = None
        seconds = time.monotonic() - worker.began
        worker.free_at = time.monotonic() + self.sleep_seconds
        reason = f"not finished in {self.video_seconds:g} s"
        if worker.pipe.poll():
            try:
                fetched: Fetched = worker.pipe.recv()
                return fetched
            except (EOFError, OSError):
                worker.process.join()
                reason = f"its process died (status {worker.process.exitcode})"
        self._replace(worker)
        return Fetched(
            tuple(
                (cut, Record(cut.file_name, "failed", reason, 0, round(seconds, 3)))
                for cut in video.cuts
            )
        )

    def _replace(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        fresh = self._start(worker.number)
        worker.process, worker.pipe, worker.is_ready = fresh.process, fresh.pipe, False

    def _start(self, number: int) -> _Worker:
        ours, theirs = _SERVER.Pipe()
        folder = self.folder / str(number)
        arguments = (theirs, self.settings, folder)
        process = _SERVER.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(number, process, ours)


def _greet(worker: _Worker) -> None:
    """Hear that a worker has started. Raises JobError if it died instead."""
    try:
        worker.is_ready = worker.pipe.recv() is None
    except (EOFError, OSError):
        worker.process.join()
        raise JobError(
            f"a process died at its start (status {worker.process.exitcode}), possibly "
            "out of memory; run again with fewer --jobs"
        ) from None


def _serve(pipe: Connection, settings: FetchSettings, folder: Path) -> None:
    """A worker's life: videos come, results go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    pipe.send(None)
    while True:
        try:
            video = pipe.recv()
        except (EOFError, OSError):
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fetched = fetch_video(video, settings, folder)
        shutil.rmtree(folder, ignore_errors=True)
        pipe.send(fetched)
