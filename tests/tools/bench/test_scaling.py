"""What tools say about the speed of many processes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.learning import TINY_MODEL


def test_the_projection_is_the_ring_less_what_a_step_hides() -> None:
    """It would flatter, or frighten, whoever buys the GPUs."""
    words = ["--step-seconds", "0.1", "--gradient-bytes", "8e6", "--batch", "32"]
    words += ["--node-bandwidth", "1e9", "--network-bandwidth", "2e8"]
    words += ["--latency", "1e-4", "--hidden-share", "0.5", "--gpus-per-node", "8"]
    tool = [sys.executable, "-m", "tools.bench.project_scaling"]
    result = subprocess.run([*tool, *words], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    # 8: 2 x 7 messages of 1 MB at 1 GB/s and 0.1 ms each, all of it hidden;
    # 64: 2 x 63 of 0.125 MB at 0.2 GB/s and 0.1 ms each, of which 50 ms hidden
    assert rows == [
        ["1", "0.000", "ms", "1.000", "320"],
        ["8", "15.400", "ms", "1.000", "2560"],
        ["64", "91.350", "ms", "0.707", "14489"],
        ["512", "182.044", "ms", "0.431", "70607"],
    ]


def test_the_interval_between_checkpoints_is_what_gives_them_their_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever sets save_every by it would save too often."""
    bench = importlib.import_module("tools.bench.scaling")
    # 0.1 s of saving after 19 steps of 0.1 s is a twentieth of 2 s
    assert bench.steps_per_checkpoint(0.1, 0.1) == 19
    assert bench.steps_per_checkpoint(0.25, 0.5) == 10


@pytest.mark.slow
def test_two_processes_are_measured_beside_one_and_two_strangers(
    tmp_path: Path,
) -> None:
    """A figure taken at another time, on a busy machine, says nothing."""
    out = tmp_path / "scaling.json"
    words = ["--steps", "20", "--rounds", "1", "--batch", "4", "--clips", "16"]
    words += ["--model", json.dumps(TINY_MODEL), "--out", str(out)]
    result = subprocess.run(
        [sys.executable, "-m", "tools.bench.scaling", *words],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())
    assert {name: len(rounds[0]) for name, rounds in found["rounds"].items()} == {
        "one": 1,
        "two_strangers": 2,
        "two_together": 2,
    }
    (one,), both = found["rounds"]["one"][0], found["rounds"]["two_together"][0]
    speed = sum(4 / process["step_seconds"] for process in both)
    expected = speed / (2 * 4 / one["step_seconds"])
    assert found["efficiency"] == pytest.approx(expected)
    for process in both:
        assert 0 < process["data_seconds"] < 10 * process["step_seconds"]
        assert process["communication_seconds"] < process["step_seconds"]
    assert both[0]["checkpoint_seconds"] > 0
    assert "two together" in result.stdout
    assert "% of the time if every " in result.stdout
