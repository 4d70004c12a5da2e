"""What the tool says about gradients in buckets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from psl.data.batch import Batch
from psl.models.families import build_model
from tests.fake_group import FakeGroup
from tests.learning import TINY_MODEL
from tests.needs import needs
from tools.bench import buckets

WAYS = ["not shared", "one all-reduce", "buckets of 0.1 MB"]


def test_each_way_sends_what_it_says_and_takes_as_long_as_it_plays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A figure for one way would be that of another."""
    group = FakeGroup(monkeypatch)
    model = buckets.Played(build_model(num_classes=1, **TINY_MODEL), 0.06)
    step = buckets._stepper(Accelerator(cpu=True), model)
    batch = Batch(
        pcm=torch.ones(1, 160, dtype=torch.int16),
        num_samples=torch.full((1,), 160),
        targets=torch.ones(1, 1),
    )
    times = buckets.time_ways(step, batch, [0.1], rounds=2, steps=1)
    assert list(times) == WAYS
    assert all(len(rounds) == 2 for rounds in times.values())
    assert all(seconds >= 0.06 for rounds in times.values() for [seconds] in rounds)
    leaves = [event for event in group.events if "leave" in event]
    numel = sum(parameter.numel() for parameter in model.parameters())
    # 2 rounds of 2 steps, in 1 and in 6 pieces, with loss and stop
    assert leaves.count(f"{numel + 2} leave") == 4
    assert len(leaves) == 4 + 4 * 6


def test_the_table_has_medians_and_ratios_of_the_same_round() -> None:
    """A busy minute of the machine would look like a gain."""
    times = dict(zip(WAYS, ([[1.0]], [[3.0, 2.0, 9.0]], [[2.4]]), strict=True))
    times = {way: rounds * 2 for way, rounds in times.items()}
    times["not shared"][1], times["one all-reduce"][1] = [2.0], [4.0]
    found: dict[str, Any] = {"model": "mn", "mbit": 500.0, "seconds": 0.5}
    lines = buckets.table([{**found, "gradient_bytes": 2.5e6, "times": times}])
    start = "| mn, 2.5 MB | 0.5 s | 500 Mbit/s |"
    assert lines.splitlines()[2:] == [
        f"{start} not shared | 1500 (1000 to 2000) | | |",
        f"{start} one all-reduce | 3500 (3000 to 4000) | 2000 (2000 to 2000) | |",
        f"{start} buckets of 0.1 MB | 2400 (2400 to 2400) | 900 (400 to 1400) | "
        "0.70 (0.60 to 0.80) |",
    ]


@pytest.mark.slow
@needs("netns")
def test_two_processes_are_measured_on_a_network_that_is_as_slow_as_told(
    tmp_path: Path,
) -> None:
    """The page's figures could not be made again."""
    out = tmp_path / "times.json"
    words = ["--model", "mobilenetv2", "--settings", json.dumps(TINY_MODEL)]
    words += ["--seconds", "0.03", "--bucket-mb", "0.1", "--rounds", "1"]
    words += ["--mbit", "20", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.buckets", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    free, limited = json.loads(out.read_text())
    assert (free["mbit"], limited["mbit"]) == (None, 20.0)
    size, tiny = limited["gradient_bytes"], build_model(num_classes=527, **TINY_MODEL)
    assert size == 4 * sum(p.numel() for p in tiny.parameters())
    # both ranks send all of it; a burst of 128 kB is free
    least = 8 * (2 * size - 131072) / 20e6
    assert all(s > least for s in limited["times"]["one all-reduce"][0])
    assert "| 20 Mbit/s | buckets of 0.1 MB | " in done.stdout
