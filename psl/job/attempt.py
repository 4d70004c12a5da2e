"""One start of a run, from the first file it touches to its exit status.

Owns the order of things around training: take the folder, see whether another start
makes sense, join the other ranks, watch, and at the end - good or bad - write
status.json, say one line and leave with the right status.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from accelerate import Accelerator

from psl.distributed import collectives, environment, runtime
from psl.job.config import AttemptConfig
from psl.job.faults import Faults
from psl.job.hang import write_hang
from psl.job.launcher import end_with_launcher
from psl.job.lock import RunLock, last_holder
from psl.job.status import (
    EXIT_OF,
    Speed,
    Status,
    ended,
    read_status,
    seconds_since_first_start,
    started,
    state_of,
    with_speed,
    with_step,
    write_status,
)
from psl.job.stop import StopRequest, name_of
from psl.job.watchdog import Cause, Watchdog
from psl.weights.checkpoint import FOLDER_NAME, newest_step
from shards.system.exits import (
    EXIT_PREEMPTED,
    EXIT_STUCK,
    JobError,
    exit_status,
    message_of,
)
from shards.system.files import remove_leftovers
from shards.system.threads import ending_by, leave_now, limit_last_words

_log = logging.getLogger(__name__)

SPEED_SECONDS = 30.0
"""Between two writings of status.json for the sake of the speed."""
PEER_SECONDS = 3.0
"""How long to look for the rank whose end made a collective fail."""


class Attempt:
    """A start of the run in ``run_dir``; a context that ends the process on errors."""

    def __init__(
        self,
        run_dir: str,
        config: AttemptConfig,
        describe_batch: Callable[[int], str],
    ) -> None:
        """``describe_batch`` names the examples of an optimizer step."""
        self._run_dir, self._config = Path(run_dir), config
        self._describe_batch = describe_batch
        self._rank, self._world_size = runtime.rank_and_world_size()
        self._stop = StopRequest(run_dir, watch_file=self._rank == 0)
        self._faults = Faults.from_environment(
            rank=self._rank, restart=runtime.restart_count()
        )
        self._lock: RunLock | None = None
        self._status: Status | None = None
        self._written = -math.inf
        self._watchdog: Watchdog | None = None
        self._ending = threading.Lock()
        self._launcher_gone: Callable[[], str | None] = lambda: None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Rank 0 takes the folder; JobError if another job has it, or it is stuck.

        From now on the process ends with its launcher, and with any of our threads.
        """
        self._launcher_gone = end_with_launcher(self._end_without_launcher)
        self._cleanup.enter_context(ending_by(self._end_without_thread))
        if self._rank == 0:
            try:
                self._take()
            except BaseException as error:
                self._write_end(exit_status(error), str(error))
                self._release()
                raise
        return self

    def _take(self) -> None:
        """Lock the folder and clear away what killed writers left in it."""
        last = last_holder(self._run_dir)
        self._lock = RunLock(self._run_dir)
        for folder in (self._run_dir, self._run_dir / FOLDER_NAME):
            remove_leftovers(folder)
        self._open(last.step if last else 0)

    def _open(self, reached: int) -> None:
        """Write the first status, or refuse; the start before ended at ``reached``."""
        before = read_status(self._run_dir)
        if before and self._config.retry_stuck:
            before = replace(before, futile_starts=0)
        self._status = started(before, newest_step(self._run_dir))
        # torchrun starts all processes again after any status except 0
        final = before is not None and before.state in (
            "preempted",
            "bad_config",
            "stuck",
        )
        if before is not None and final and runtime.restart_count():
            raise JobError.ending_with(EXIT_OF[before.state], before.message)
        if self._status.futile_starts > self._config.max_futile_starts:
            raise JobError.ending_with(EXIT_STUCK, self._why_stuck(before, reached))
        if not runtime.restart_count():
            self._stop.clear_old()
        write_status(self._run_dir, self._status)

    def _why_stuck(self, before: Status | None, reached: int) -> str:
        if before and before.state == "stuck":
            return before.message
        assert self._status is not None
        start, number = self._status.start_step, self._status.futile_starts - 1
        reached = max(reached, start)
        try:
            batch = self._describe_batch(reached + 1)
        except Exception as error:  # what is wrong with it may be what stops the run
            batch = f"cannot be named: {error}"
        last = f" ({before.message})" if before and before.message else ""
        return (
            f"{self._run_dir}: {number} consecutive starts made no checkpoint past "
            f"step {start}; the last one ended after step {reached}{last}; batch of "
            f"step {reached + 1}: {batch}; fix the cause, then start once with "
            "attempt.retry_stuck=true"
        )

    def join(self, accelerator: Accelerator) -> None:
        """Watch the other processes and listen to signals from now on. Collective."""
        # several ranks agree at their first step
        self._stop.listen(at_once=accelerator.num_processes == 1)
        self._watchdog = Watchdog(
            accelerator.process_index,
            accelerator.num_processes,
            runtime.rendezvous_store(),
            timeout_seconds=self._config.timeout_seconds,
            end=self._end_hard,
            tell_hang=self._tell_hang,
        )
        self._watchdog.start()

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether this process was; the ranks have yet to agree."""
        return self._stop.is_made

    def at(self, point: str, step: int) -> bool:
        """Note that this process got to ``point`` of ``step``.

        True if an injected fault wants the loss of the step to be NaN.
        """
        self.mark(point.partition(".")[0], step)
        return self._faults.at(point, step)

    def mark(self, place: str, step: int) -> None:
        """Only the note of ``at``."""
        self._stop.defer()
        if self._watchdog is not None:
            self._watchdog.mark(place, step)

    def inject(self, point: str, step: int) -> None:
        """Only the faults of ``at``, for other threads than the main one."""
        self._faults.at(point, step)

    def agree_to_stop(self) -> bool:
        """Whether any process was asked to stop. Collective."""
        return collectives.largest_over_ranks(int(self._stop.is_made)) > 0

    def leave(self) -> None:
        """Training is over; do not watch the other processes as they part."""
        if self._watchdog is not None:
            self._watchdog.stop()

    def step_done(self, step: int) -> None:
        """Note that ``step`` optimizer steps are done."""
        if self._lock is not None:
            self._lock.reached(step)

    def saved(
        self,
        step: int,
        epoch: int,
        useful_seconds: float | None = None,
        speed: Speed | None = None,
    ) -> None:
        """Note that there is a checkpoint after ``step`` steps, ``epoch`` epochs.

        ``useful_seconds`` are those of its steps, over all starts.
        """
        if self._status is not None:
            self._write(with_step(self._status, step, epoch, useful_seconds, speed))
            self.step_done(step)

    def tell(self, speed: Speed) -> None:
        """Put ``speed`` into status.json, unless that was written just now."""
        due = self._written + SPEED_SECONDS
        if self._status is not None and time.monotonic() >= due:
            self._write(with_speed(self._status, speed))

    def _write(self, status: Status) -> None:
        self._status, self._written = status, time.monotonic()
        write_status(self._run_dir, status)

    @property
    def useful_seconds(self) -> float:
        """What the steps took from which this start goes on; on rank 0."""
        return self._status.useful_seconds if self._status is not None else 0.0

    def wall_seconds(self) -> float | None:
        """Since the first start of the run; None if unknown, as on other ranks."""
        if self._status is None:
            return None
        return seconds_since_first_start(self._status)

    def preempted(self, step: int) -> NoReturn:
        """End the job that saved its checkpoint of ``step`` on request. Collective."""
        reason = collectives.largest_over_ranks(self._stop.reason)
        raise JobError.ending_with(
            EXIT_PREEMPTED,
            f"stopped by {name_of(reason)} with a checkpoint at step {step}; run the "
            "same command again to resume",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write how it ended. In a job of several processes, an error ends this one."""
        if error is not None and self._watchdog is not None and self._world_size > 1:
            self._end_with_others(error, self._watchdog)
        if self._watchdog is not None:
            self._watchdog.stop()
        if error is None:
            self._write_end(0, "")
        else:
            self._write_end(exit_status(error), message_of(error) or repr(error))
        self._release()

    def _end_with_others(self, error: BaseException, watchdog: Watchdog) -> NoReturn:
        status = exit_status(error)
        if status == EXIT_PREEMPTED:  # all ranks are here, and rank 0 speaks
            self._write_end(status, str(error))
            watchdog.stop()
            with contextlib.suppress(RuntimeError):
                collectives.wait_for_all()
            leave_now(str(error) if self._rank == 0 else None, status)
        # what a library raises may be only an echo of another rank's end
        is_echo = isinstance(error, RuntimeError) and not isinstance(error, JobError)
        cause = watchdog.cause_elsewhere(PEER_SECONDS) if is_echo else None
        message = message_of(error)
        if cause is not None:
            self._end_hard(*watchdog.blame(cause))
        if message is None or os.environ.get("PSL_DEBUG") == "1":
            traceback.print_exception(error)
        own = Cause(f"rank {self._rank}: {message or repr(error)}", status=status)
        self._end_hard(*watchdog.blame(own))

    def _tell_hang(self, cause: Cause) -> None:
        write_hang(self._run_dir, self._rank, cause.message)

    def _end_without_launcher(self, message: str) -> NoReturn:
        self._end_hard(Cause(message), self._is_first_here)

    def _end_without_thread(self, message: str) -> NoReturn:
        cause = Cause(f"rank {self._rank}: {message}")
        blame = self._watchdog.blame if self._watchdog else None
        self._end_hard(*(blame(cause) if blame else (cause, True)))

    @property
    def _is_first_here(self) -> bool:
        """Whether this is the first rank of its machine, to speak for the others."""
        return environment.local_rank() == 0

    def _end_hard(self, cause: Cause, ours: bool) -> NoReturn:
        """End this process at once, whatever its other threads are doing.

        A normal exit would wait for a reading thread, or abort in gloo's destructors.
        """
        with self._ending:
            limit_last_words()
            if (gone := self._launcher_gone()) is not None:
                # ranks whose launcher has ended see each other end, too
                cause, ours = Cause(gone), self._is_first_here
            if self._status is None and ours and 0 in cause.silent:
                self._status = read_status(self._run_dir)  # rank 0 cannot write it
            self._write_end(cause.status, cause.message)
            if self._rank == 0 and self._watchdog is not None and gone is None:
                self._watchdog.wait_until_heard(cause)
            leave_now(f"error: {cause.message}" if ours else None, cause.status)

    def _write_end(self, status: int, message: str) -> None:
        """status.json, where there is room on the disk to say it."""
        if self._status is None:
            return
        state = state_of(status)
        try:
            write_status(self._run_dir, ended(self._status, state, message))
            if state == "preempted":
                self._stop.clear()
        except OSError as error:
            _log.warning("%s: no status written: %s", self._run_dir, message_of(error))

    def _release(self) -> None:
        self._cleanup.close()
        self._stop.restore()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
