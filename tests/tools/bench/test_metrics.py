"""The measurement behind docs/how_sure.md, on a small scale."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest


def test_the_table_of_the_page_can_be_made_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Figures that nobody can make again would be published."""
    tool = importlib.import_module("tools.bench.metrics")
    tool.main(["--clips", "200", "--classes", "12", "--sets", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [
        "mAP",
        "all metrics",
        "1000 resamples",
    ]
    shares = [re.fullmatch(r"\d+ clips: (\d+) % of 8 .*", line) for line in lines[3:]]
    assert len(shares) == 2 and all(m and int(m[1]) >= 50 for m in shares)


def test_memory_is_that_of_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As above, for the memory of an evaluation."""
    tool = importlib.import_module("tools.bench.metrics")
    words = ["--memory", "300", "--classes", "12", "--folder", str(tmp_path)]
    tool.main(words)
    title, _, line = capsys.readouterr().out.splitlines()
    assert title.startswith("| Clips, 12 classes | ")
    found = re.fullmatch(r"\| 300 \| 0.00 \| (\d+) \| .* \| .* \|", line)
    assert found and 50 < int(found[1]) < 2000
    assert not list(tmp_path.iterdir())


def test_the_memory_of_segments_is_measured_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As above, for segments of these clips."""
    tool = importlib.import_module("tools.bench.segments")
    tool.main(["--clips", "40", "--classes", "12", "--folder", str(tmp_path)])
    title, _, line = capsys.readouterr().out.splitlines()
    assert title.startswith("| Clips of 10 s, 12 classes | ")
    found = re.fullmatch(r"\| 40 \| 0.00 \| (\d+) \| .* \| .* \|", line)
    assert found and 50 < int(found[1]) < 2000
    assert not list(tmp_path.iterdir())
