"""What is left of a job that hangs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from psl.job import hang


def test_a_disk_that_hangs_does_not_keep_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file server is often why the job hangs; hundreds of GPUs would wait on."""
    monkeypatch.setattr(hang, "WRITE_SECONDS", 0.1)
    forever = threading.Event()
    monkeypatch.setattr(hang, "open_atomic", lambda path: forever.wait())
    begin = time.monotonic()
    hang.write_hang(tmp_path, 3, "no progress")
    assert time.monotonic() - begin < 5
    forever.set()
    hang.write_hang(tmp_path / "missing", 3, "raises nothing either")


def test_nccl_says_which_collectives_it_was_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacks of Python do not tell on which message a GPU waits."""
    assert hang.flight_record() is None
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    assert hang.flight_record() is None
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    names = [n for n in hang.RECORDERS if hasattr(torch._C._distributed_c10d, n)]
    assert names, "this torch has none of the known recorders"
    hang.write_hang(tmp_path, 7, "no progress")
    record = json.loads((tmp_path / "hang" / "nccl_rank7.json").read_text())
    assert "pg_status" in record
