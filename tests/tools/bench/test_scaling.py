"""What tools say about the speed of many processes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from psl.models.families import FAMILIES, build_model
from tests.learning import REPOSITORY, TINY_MODEL


def _project(*words: str) -> str:
    tool = [sys.executable, "-m", "tools.bench.project_scaling"]
    result = subprocess.run([*tool, *words], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_projection_is_bandwidth_and_a_tree_and_the_slowest_rank() -> None:
    """It would mislead whoever buys the GPUs."""
    words = ["--step-seconds", "0.1", "--gradient-bytes", "8e6", "--batch", "32"]
    words += ["--node-bandwidth", "1e9", "--network-bandwidth", "2e8"]
    words += ["--latency", "1e-4", "--jitter", "0.01", "--gpus-per-node", "8"]
    told = _project(*words, "--gpus", "1", "8", "512").splitlines()
    # 8: 2 x 7/8 of 8 MB at 1 GB/s, 2 x 3 messages of 0.1 ms, 1 ms x sqrt(2 ln 8);
    # 512: 2 x 511/512 of 8 MB at 0.2 GB/s, 2 x 9 messages, 1 ms x sqrt(2 ln 512)
    assert [line.split()[:7] for line in told[1:]] == [
        ["1", "0.000", "ms", "0.000", "ms", "1.000", "320"],
        ["8", "14.600", "ms", "2.039", "ms", "0.857", "2195"],
        ["512", "81.644", "ms", "3.532", "ms", "0.540", "88478"],
    ]
    assert ["not measured" in line for line in told[1:]] == [False, False, True]


def test_sizes_are_those_of_the_families() -> None:
    """The network would be bought for another model."""
    bench = importlib.import_module("tools.bench.project_scaling")
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in build_model(name).parameters())
            for name in FAMILIES
        }
    assert sizes == bench.PARAMETERS


def test_the_page_has_the_table_that_the_command_prints() -> None:
    """A table of an older formula would be believed."""
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    assert "python -m tools.bench.project_scaling --sizes\n" in page
    assert _project("--sizes") in page


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
