"""Requests to stop that come before there is any work to save."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from psl import label, train
from psl.job.status import read_status
from psl.job.stop import StopRequest
from psl.labelling import job
from psl.training import loop
from shards.system.exits import JobError
from tests.learning import tiny_config


def read_forever(*_: object, **__: object) -> NoReturn:
    """A read from a file server that does not answer, and a SIGTERM meanwhile."""
    reader, _writer = os.pipe()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    os.read(reader, 1)
    raise AssertionError("nobody writes")


@pytest.fixture(autouse=True)
def handlers() -> object:
    """The handlers of this process, as they were."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_label_job_that_is_still_reading_its_teacher_ends_at_once(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk would have it killed after the grace time, as if it had failed."""
    monkeypatch.setattr(job, "load_teacher", read_forever)
    words = ["teacher=t", f"audio={dataset}", f"out={tmp_path}", "chunk_seconds=1"]
    with pytest.raises(JobError, match="stopped by SIGTERM before any work") as end:
        label.main(words)
    assert end.value.status == 75


def test_a_training_run_that_is_still_opening_ends_at_once_as_preempted(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three preemptions during slow starts would call a run stuck."""
    monkeypatch.setattr(loop, "open_run", read_forever)
    with pytest.raises(JobError, match="stopped by SIGTERM before any work") as end:
        train.main(tiny_config(tmp_path, dataset))
    assert end.value.status == 75
    status = read_status(tmp_path / "run")
    assert status is not None and status.state == "preempted"


def test_a_request_during_work_interrupts_nothing(tmp_path: Path) -> None:
    """A step, or a checkpoint, would be cut in two."""
    stop = StopRequest(tmp_path, watch_file=False)
    stop.listen(at_once=True)
    try:
        stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_made and stop.reason == signal.SIGTERM
    finally:
        stop.restore()
