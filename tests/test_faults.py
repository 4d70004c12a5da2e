"""Faults: killed, stopped, asked to stop, out of data, out of disk, NaN; nothing lost.

tests/jobs.py starts the jobs; the tests of torchrun itself are in test_launchers.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from psl import status
from psl.checkpoint import list_checkpoints, load_newest
from psl.faults import Fault, Faults, parse_fault
from psl.run_lock import RunLock
from psl.status import Status, read_status
from shards.cli import JobError
from tests.jobs import start, step_reached
from tests.learning import losses, state, tiny_config

WORDS = ["epochs=3", "save_every=4", "model.dropout=0.3"]
"""18 steps, with checkpoints at 4, 6, 8, 12, 16 and 18."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> dict[int, Path]:
    """An undisturbed run on 1 and one on 2 ranks; not to be changed."""
    runs = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp(f"whole{ranks}")
        job = start(folder, tiny_config(folder, dataset, *WORDS), ranks=ranks)
        assert job.wait() == [0] * ranks, job.output
        runs[ranks] = folder / "run"
    return runs


def test_an_undisturbed_run_ends_as_done(whole: dict[int, Path]) -> None:
    """A batch script would start a finished run again and again."""
    ended = read_status(whole[2])
    assert ended is not None
    assert (ended.state, ended.step, ended.epoch) == ("done", 18, 3)
    assert (ended.attempts, ended.message) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_after_the_same_step_with_a_checkpoint(
    tmp_path: Path, dataset: Path, whole: dict[int, Path], number: int
) -> None:
    """A preempted job would lose its work since the last checkpoint, or hang."""
    words = tiny_config(tmp_path, dataset, *WORDS)
    job = start(tmp_path, words, ranks=2)
    job.wait_until(lambda: step_reached(tmp_path / "run") >= 2)
    os.kill(job.ranks[1].pid or 0, number)
    assert job.wait() == [75, 75], job.output
    stopped = read_status(tmp_path / "run")
    assert stopped is not None and stopped.state == "preempted"
    assert f"stopped by {signal.Signals(number).name}" in stopped.message
    assert list_checkpoints(tmp_path / "run")[-1].name == f"step_{stopped.step:08d}"
    assert 2 <= stopped.step < 18
    again = start(tmp_path, words, ranks=2)
    assert again.wait() == [0, 0], again.output
    assert losses(tmp_path / "run") == losses(whole[2])
