"""Training jobs of one or more ranks, started fast and killed in every way.

Ranks are forked from a server that has imported psl.training.loop, with the environment
torchrun would give them: what takes seconds is then the training, not the imports.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psl import train
from psl.data.examples import TrainingData
from psl.job.lock import last_holder
from psl.training import (
    loop,  # noqa: F401 - what ranks would import late
    run,
)
from shards.system.exits import run_main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.jobs"])
PR_SET_PDEATHSIG = 1
"""Of Linux' prctl: a rank that a failed test leaves behind ends with the server."""


@dataclass(frozen=True)
class Job:
    """The ranks of a job, and the file each writes stdout and stderr to."""

    ranks: Sequence[BaseProcess]
    outputs: list[Path]

    def wait(self, seconds: float = 120) -> list[int | None]:
        """The exit status of each rank; fails if one is still there after ``seconds``.

        A rank that was stopped is killed, as launchers do, when the others have ended.
        """
        deadline = time.monotonic() + seconds
        for rank in self.ranks:
            rank.join(max(0.0, deadline - time.monotonic()))
        left = [number for number, rank in enumerate(self.ranks) if rank.is_alive()]
        self.kill()
        assert not left, f"ranks {left} still run:\n{self.output}"
        return [rank.exitcode for rank in self.ranks]

    def wait_until(self, happens: Callable[[], bool], seconds: float = 120) -> None:
        """Return when ``happens()``; fails if the job ends before, or it takes long."""
        deadline = time.monotonic() + seconds
        while not happens():
            assert any(rank.is_alive() for rank in self.ranks), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.005)

    def kill(self) -> None:
        """Kill -9 of every rank."""
        for rank in self.ranks:
            if rank.is_alive():
                rank.kill()
            rank.join()

    @property
    def output(self) -> str:
        """What all ranks wrote."""
        return "".join(path.read_text() for path in self.outputs)


def start(
    folder: Path,
    words: list[str],
    *,
    ranks: int = 1,
    fault: str | None = None,
    fixed_statistics: bool = False,
    environment: Mapping[str, str] | None = None,
    reads: Path | None = None,
    late: bool = False,
) -> Job:
    """Start ``psl.train WORDS`` on ``ranks`` processes over gloo.

    With ``fixed_statistics`` BatchNorm uses its running statistics, as in evaluation.
    Given an ``environment``, the processes have it, and one alone is launched, too.
    Each rank writes the keys of the batches it makes to RANK.jsonl in ``reads``.
    With ``late`` they learn what came of a step with the next one, as on a GPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder / f"{time.monotonic_ns()}_{rank}.txt" for rank in range(ranks)]
    port = free_port()
    processes = []
    for rank, output in enumerate(outputs):
        output.touch()
        variables = {**(environment or {})} | ({"PSL_FAULT": fault} if fault else {})
        if ranks > 1 or environment is not None:
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            variables |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            variables |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        process = SERVER.Process(
            target=_train,
            args=(words, output, variables, fixed_statistics, reads, late),
        )
        process.start()
        processes.append(process)
    return Job(processes, outputs)


def step_reached(run_dir: Path) -> int:
    """The last step that rank 0 has finished."""
    holder = last_holder(run_dir)
    return holder.step if holder else 0


def _train(
    words: list[str],
    output: Path,
    variables: dict[str, str],
    fixed_statistics: bool,
    reads: Path | None,
    late: bool,
) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(variables)
    with open(output, "a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if fixed_statistics:
        for kind in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
            kind.train = _stay_in_evaluation  # type: ignore[assignment]
    if reads is not None:
        _note_reads(reads / f"{variables['RANK']}.jsonl")
    if late:
        run.is_read_late = lambda device: True
    sys.argv = ["psl.train", *words]
    run_main(lambda: train.main(words))


def _note_reads(path: Path) -> None:
    """Have this process write the keys of each batch that it makes for training."""
    make = TrainingData.batch

    def make_and_note(data: TrainingData, rows: np.ndarray, *args: Any) -> Any:
        keys = [bytes(data.audio.index.table.key[row]).decode() for row in rows]
        with open(path, "a") as stream:
            stream.write(json.dumps(keys) + "\n")
        return make(data, rows, *args)

    TrainingData.batch = make_and_note  # type: ignore[method-assign, assignment]


def _stay_in_evaluation(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    module.training = False
    return module


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
