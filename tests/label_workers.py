"""Processes of a labelling job, started fast, slowed down and killed in every way.

Forked from the server of tests/jobs.py, which has imported torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from psl import label
from psl.labelling import job as labelling
from psl.labelling.config import LabelConfig
from psl.labelling.worker import Work
from shards.dataset.writer import DatasetBuilder, Part
from shards.system.exits import run_main
from tests.jobs import PR_SET_PDEATHSIG, SERVER, Job

GO_NAME = "go"
"""A file in the folder of outputs that ends all slowness."""


def start_workers(
    folder: Path, words: Sequence[str], *, number: int = 1, seconds: float = 0.0
) -> Job:
    """Start ``psl.label WORDS`` in processes that share nothing but the folder.

    The teacher takes ``seconds`` longer for each batch. ``folder``/recorded gets the
    name of every shard that is recorded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder / f"{time.monotonic_ns()}_{n}.txt" for n in range(number)]
    processes = []
    for output in outputs:
        output.touch()
        process = SERVER.Process(target=_label, args=(list(words), output, seconds))
        process.start()
        processes.append(process)
    return Job(processes, outputs)


def _label(words: list[str], output: Path, seconds: float) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(output, "a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    _be_slow(output.with_name(GO_NAME), seconds)
    _note_records(output.with_name("recorded"))
    run_main(lambda: label.main(words))


def _be_slow(go: Path, seconds: float) -> None:
    open_work = labelling.open_work

    def slow_work(config: LabelConfig) -> Work:
        work = open_work(config)

        def slow_score(*arguments: Any) -> Tensor:
            if not go.exists():
                time.sleep(seconds)
            return work.score(*arguments)

        return replace(work, score=slow_score)

    labelling.open_work = slow_work


def _note_records(log: Path) -> None:
    record = DatasetBuilder.record

    def noted_record(builder: DatasetBuilder, part: Part) -> None:
        record(builder, part)
        with open(log, "a") as stream:
            stream.write(f"{part.shard.name}\n")

    DatasetBuilder.record = noted_record  # type: ignore[assignment, method-assign]
