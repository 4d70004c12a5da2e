"""A profile of some steps: a Chrome trace of each rank, and a GPU's memory.

Owns the folder ``profile`` of a run folder. It watches and changes nothing: the losses
stay the same to the bit.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from shards.system.files import folder_atomic

_log = logging.getLogger(__name__)

FOLDER_NAME = "profile"
MAX_EVENTS = 200_000
"""Allocations that the record of the memory holds."""


class Profiler:
    """Watches this rank in the steps from the first to the last of ``steps``."""

    def __init__(
        self, run_dir: str | Path, steps: list[int] | None, *, rank: int, done: int
    ) -> None:
        """``steps`` is None for no profile; ``done`` steps are done already."""
        self._folder, self._rank = Path(run_dir, FOLDER_NAME), rank
        self._first, self._last = steps or (0, -1)
        self._trace: profile | None = None
        self._inside = contextlib.ExitStack()
        self._seen: list[int] = []
        if rank == 0 and steps and done >= self._last:
            _log.warning(
                "profile=[%d,%d]: these steps are done; nothing is profiled",
                self._first,
                self._last,
            )

    def begin(self, step: int) -> None:
        """Step number ``step`` comes next: watch it, if it is to be watched."""
        if not self._first <= step <= self._last:
            return
        if self._trace is None:
            self._trace = _start()
        self._seen.append(step)
        self._inside.enter_context(record_function(f"step {step}"))

    def end(self, step: int) -> None:
        """Step number ``step`` is over; write the profile after the last."""
        self._inside.close()
        if step == self._last:
            self.close()

    def close(self) -> None:
        """Write what was seen, also if the run ends before the last step."""
        self._inside.close()
        trace, self._trace = self._trace, None
        if trace is None:
            return
        trace.stop()
        name = f"steps_{self._seen[0]}-{self._seen[-1]}_rank{self._rank}"
        try:
            self._folder.mkdir(exist_ok=True)
            with folder_atomic(self._folder / name) as folder:
                trace.export_chrome_trace(str(folder / "trace.json.gz"))
                has_memory = _dump_memory(folder / "memory.pickle")
        except (OSError, RuntimeError) as error:  # no reason to end a run
            _log.warning("%s: no profile written: %s", self._folder / name, error)
            return
        if self._rank == 0:
            without = "" if has_memory else "; no memory.pickle, as this is no GPU"
            _log.info("profile: %s%s", self._folder / name, without)


def _start() -> profile:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.memory._record_memory_history(max_entries=MAX_EVENTS)
    trace = profile(activities=activities, record_shapes=True, profile_memory=True)
    trace.start()
    return trace


def _dump_memory(path: Path) -> bool:
    """The allocations of a GPU, for pytorch.org/memory_viz; False without a GPU."""
    if not torch.cuda.is_available():
        return False
    torch.cuda.memory._dump_snapshot(str(path))
    torch.cuda.memory._record_memory_history(enabled=None)
    return True
