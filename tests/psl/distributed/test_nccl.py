"""nccl is told to leave the end of a job to the watchdog, before it begins."""

from __future__ import annotations

import os

import pytest
import torch

from psl.distributed import launch, runtime

HANDLING = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
MONITORING = "TORCH_NCCL_ENABLE_MONITORING"
RECORDS, OLD_RECORDS = "TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"
ALL = (HANDLING, MONITORING, RECORDS, OLD_RECORDS)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell has it; what is set in a test is forgotten after it."""
    for name in (*ALL, "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def variables() -> dict[str, str]:
    """Those of nccl that are set."""
    return {name: os.environ[name] for name in ALL if name in os.environ}


def test_nccl_does_not_end_a_process_before_it_has_said_why() -> None:
    """A dead peer would abort the others, and status.json say that they still run."""
    runtime.leave_hangs_to_us()
    assert variables() == {HANDLING: "0", MONITORING: "0", RECORDS: "2000"}


def test_what_torchrun_sets_for_everybody_is_not_the_user_s_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under torchrun, as most jobs are, nothing of it would have any effect."""
    monkeypatch.setenv(HANDLING, "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    runtime.leave_hangs_to_us()
    assert variables()[HANDLING] == "0"


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who debugs nccl could not have its own messages."""
    set_by_user = {HANDLING: "3", MONITORING: "1", OLD_RECORDS: "50"}
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    runtime.leave_hangs_to_us()
    assert variables() == set_by_user
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv(HANDLING, "1")
    runtime.leave_hangs_to_us()
    assert variables()[HANDLING] == "1"


class Joined(Exception):
    """Where accelerate would make the process group."""


@pytest.mark.parametrize("cuda", [True, False])
def test_a_job_on_gpus_sets_them_before_its_group_is_made(
    monkeypatch: pytest.MonkeyPatch, cuda: bool
) -> None:
    """Variables that are set later are not read."""
    found = {}

    def accelerator(**_: object) -> None:
        found.update(variables())
        raise Joined

    monkeypatch.setattr(launch, "Accelerator", accelerator)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(Joined):
        launch.join_job()
    assert bool(found) == cuda
