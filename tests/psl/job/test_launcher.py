"""Ranks end with their launcher, whatever they are doing, and nobody else does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from psl.job.status import read_status
from tests.jobs import start, step_reached
from tests.learning import REPOSITORY, losses, tiny_config

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def is_gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if not is_gone(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def torchrun_killed(words: list[str], log: Path, when: str) -> list[psutil.Process]:
    """Two ranks whose torchrun was killed -9: ``meeting`` or ``training``."""
    with open(log, "w") as stream:
        launcher = subprocess.Popen(
            [*TORCHRUN, "--nproc-per-node", "2", "-m", "psl.train", *words],
            stdout=stream,
            stderr=stream,
            cwd=REPOSITORY,
            env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        )
    deadline = time.monotonic() + 90
    run_dir = log.parent / "run"
    ranks: list[psutil.Process] = []
    while len(ranks) < 2:
        assert launcher.poll() is None and time.monotonic() < deadline
        ranks = psutil.Process(launcher.pid).children()
        time.sleep(0.01)
    ranks.sort(key=lambda rank: rank.environ()["RANK"])
    if when == "meeting":
        ranks[1].suspend()  # while it imports: rank 0 will wait for it
        while not (run_dir / "status.json").exists():
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    else:
        while step_reached(run_dir) < 2:
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    launcher.kill()
    launcher.wait()
    return ranks


@pytest.mark.parametrize("when", ["meeting", "training"])
def test_ranks_end_when_torchrun_is_killed_and_the_same_command_resumes(
    tmp_path: Path, dataset: Path, when: str
) -> None:
    """After the OOM killer, the requeued job was refused for 22 minutes, or forever.

    One rank imports, and ends once it has; the other waits for it to meet.
    """
    epochs = "1" if when == "meeting" else "4000"
    words = tiny_config(tmp_path, dataset, f"epochs={epochs}", "patience=null")
    ranks = torchrun_killed(words, tmp_path / "log", when)
    try:
        wait_until_gone(ranks[:1], 60)
        if when == "meeting":
            ranks[1].resume()
        wait_until_gone(ranks[1:], 60)
    finally:
        for rank in ranks:
            if not is_gone(rank):
                rank.kill()
    assert "error: the launcher of this rank is gone" in (tmp_path / "log").read_text()
    ended = read_status(tmp_path / "run")
    assert ended is not None and ended.state == "failed"
    assert "the launcher of this rank is gone" in ended.message
    if when == "meeting":
        again = start(tmp_path, words, ranks=2)
        assert again.wait() == [0, 0], again.output
        assert len(losses(tmp_path / "run")) == 6


CHILD = """
import os, sys, time
from psl.job.launcher import end_with_launcher
end_with_launcher()
print(os.getpid(), flush=True)
time.sleep(60)
"""


def start_child(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A process that runs ``command`` followed by CHILD, and the pid of the latter."""
    words = [sys.executable, "-c", CHILD]
    process = subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    assert process.stdout
    return process, int(process.stdout.readline())


AGENT = """
import os, subprocess, sys
os.environ.update(LOCAL_RANK="0", TORCHELASTIC_RUN_ID="none")
subprocess.run(sys.argv[1:])
"""
WRAPPED = ["bash", "-c", '"$@"; true', "wrapper"]
"""Has the shell stay, as a wrapper script of --no-python does."""


def test_a_script_between_a_rank_and_its_launcher_does_not_keep_it() -> None:
    """Clusters wrap ranks in scripts that bind cores; they outlive the launcher."""
    agent, pid = start_child([sys.executable, "-c", AGENT, *WRAPPED])
    child = psutil.Process(pid)
    agent.kill()
    agent.wait()
    wait_until_gone([child], 10)


def test_a_process_started_from_a_shell_outlives_it() -> None:
    """``nohup psl train &`` and a closed terminal: the run must train on."""
    shell = ["bash", "-c", 'export LOCAL_RANK=0; "$@" & wait', "shell"]
    process, pid = start_child(shell)
    child = psutil.Process(pid)
    process.kill()
    process.wait()
    time.sleep(3)
    assert not is_gone(child)
    child.kill()


def test_a_rank_whose_launcher_ended_while_it_was_importing_ends() -> None:
    """It would wait in the rendezvous of a job that has ended."""
    shell = ["bash", "-c", 'export TORCHELASTIC_RUN_ID=none; "$@" &', "launcher"]
    result = subprocess.run(
        [*shell, sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=240,
    )
    assert "error: the launcher of this rank is gone (its process)" in result.stderr
