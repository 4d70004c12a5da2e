"""What a start of a run notes and heeds before its first step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psl import train
from psl.job.status import read_status
from shards.system.exits import JobError
from tests.learning import losses, tiny_config


def test_a_request_made_while_the_program_imports_is_heeded(
    tmp_path: Path, dataset: Path
) -> None:
    """A batch script asks once, seconds after the start, and the limit comes."""
    words = tiny_config(tmp_path, dataset)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "PREEMPT").touch()  # this process is older
    with pytest.raises(JobError, match="file PREEMPT with a checkpoint at step") as end:
        train.main(words)
    assert end.value.status == 75
    assert not (tmp_path / "run" / "PREEMPT").exists()


def test_a_request_left_over_from_before_the_start_is_forgotten(
    tmp_path: Path, dataset: Path
) -> None:
    """The run would stop at its first step, again and again."""
    words = tiny_config(tmp_path, dataset, "epochs=1")
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "PREEMPT"
    file.touch()
    long_ago = time.time() - 1e6
    os.utime(file, (long_ago, long_ago))
    train.main(words)
    assert len(losses(tmp_path / "run")) == 6 and not file.exists()


def test_a_start_says_at_once_from_where_it_goes_on(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psl.status would say epoch 0 of a run that is in its second, until it saves."""
    words = tiny_config(tmp_path, dataset, "epochs=2")
    for step in (8, 7):  # the second start gets to no checkpoint of its own
        monkeypatch.setenv("PSL_FAULT", f"step={step},point=step,action=exception")
        with pytest.raises(OSError, match="PSL_FAULT"):
            train.main(words)
        status = read_status(tmp_path / "run")
        assert status is not None and (status.step, status.epoch) == (6, 1)


def test_a_run_in_a_notebook_whose_stderr_has_no_descriptor_goes_to_its_end(
    tmp_path: Path, dataset: Path
) -> None:
    """The watchdog's thread would fail there, and end the notebook with it."""
    code = (
        "import io, sys, time; from psl import train; sys.stderr = io.StringIO();"
        "train.main(sys.argv[1:]); time.sleep(0.5); print('still here')"
    )
    words = tiny_config(tmp_path, dataset, "epochs=60", "patience=null")
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "still here" in done.stdout
