"""The measures of docs/shuffle.md, and what the page says, on a small scale."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/bench/shuffle_quality.py."""
    return importlib.import_module("tools.bench.shuffle_quality")


def test_the_measures_are_those_that_arithmetic_gives(tool: ModuleType) -> None:
    """Else the page compares numbers that mean nothing.

    In input order neighbours are 1 apart, against a median of 0.2929 n, and 9 in 10
    share a batch of 10. Batches of one class each, one in 50 of each class: the count
    is 10 or 0, variance 100 p (1 - p) against 10 p (1 - p) (n - 10) / (n - 1).
    """
    distance, together = tool.neighbours(np.arange(5000), 10)
    assert distance == pytest.approx(1 / (0.2928932 * 5000))
    assert together == pytest.approx(0.9 * 4999 / 9, rel=1e-3)
    clumped = np.repeat(np.arange(tool.NUM_CLASSES), 100)
    assert tool.mixture(clumped, 10) == pytest.approx(10 * 4999 / 4990)
    shuffled = np.random.default_rng(0).permutation(clumped)
    assert tool.mixture(shuffled, 10) == pytest.approx(1, abs=0.1)


def test_neighbours_that_were_left_over_are_not_counted(tool: ModuleType) -> None:
    """Else the last part batch of an epoch passes for distance."""
    assert tool.neighbours(np.array([4, 0, 1]), 2)[1] == 0.0
    assert tool.neighbours(np.array([0, 1, 4]), 2)[1] == 2.0


def test_the_plan_mixes_as_a_full_shuffle_and_a_buffer_does_not(
    tmp_path: Path, tool: ModuleType
) -> None:
    """Else docs/shuffle.md is no longer true."""
    small = tool.Setting(3000, 30, 20)
    plan = tool.planned(small)
    buffer = tool.buffered(tool.write_tars(tmp_path, small), 200)
    assert sorted(buffer.tolist()) == list(range(15_000)) == sorted(plan.tolist())
    distance, together = tool.neighbours(plan, 20)
    assert distance == pytest.approx(1, abs=0.05) and together < 0.2
    assert tool.neighbours(buffer, 20)[0] < 0.1 and tool.neighbours(buffer, 20)[1] > 20
    packed = tool.class_of_clips(small, True)
    assert tool.mixture(packed[plan // 5], 20) == pytest.approx(1, abs=0.1)
    by_class = tool.class_of_clips(small, False)
    assert (
        tool.mixture(by_class[plan // 5], 20)
        < 1
        < 5
        < tool.mixture(by_class[buffer // 5], 20)
    )
