"""tools/gpu/check.py, on the CPU: everything of it but CUDA itself."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tool() -> ModuleType:
    """tools/gpu/check.py, imported."""
    return importlib.import_module("tools.gpu.check")


def check(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """``python -m tools.gpu.check WORDS``."""
    command = [sys.executable, "-m", "tools.gpu.check", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
def test_the_check_tries_everything_and_says_what_it_left_out(tmp_path: Path) -> None:
    """An hour on a rented GPU would go by before the tool's own mistake shows."""
    out = tmp_path / "gpu.json"
    words = ("--minutes", "20", "--work", tmp_path / "work")
    result = check("--device", "cpu", "--out", out, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(out.read_text())
    steps = found["steps"]
    skipped = {n: s["reason"] for n, s in steps.items() if s["outcome"] == "skipped"}
    assert skipped.keys() == {
        *("cpu", "graph_losses", "graph", "compile_speed"),
        *("compiled", "compiled_bf16", "deepspeed"),
    }
    assert all(reason.startswith("--device cpu: ") for reason in skipped.values())
    assert {s["outcome"] for s in steps.values()} == {"passed", "skipped"}
    assert len(steps) == 24
    # 40 clips of 2 s are 80 chunks of 1 s, 10 batches of 8
    assert len(steps["train"]["figures"]["losses"]) == 10
    assert steps["evaluate"]["figures"]["num_clips"] == 40
    assert steps["ranks"]["figures"]["ranks"] == 2
    assert steps["resume"]["figures"]["steps_bit_for_bit"] == 10  # on a CPU
    assert 0 < steps["bf16"]["figures"]["largest"] <= 0.1
    speeds = [steps[name]["figures"] for name in ("train_speed", "fed")]
    assert speeds[1].keys() == {"threads_1", "threads_2", "threads_8"}
    for speed in (*speeds[0].values(), *speeds[1].values()):
        assert speed["chunks_per_second"] > 0
        assert 0 <= speed["wait_share"] < 1
    assert steps["bare"]["figures"]["batch 8"].keys() == {"no NCHW", "no NHWC"}
    product = steps["product"]["figures"]["batch 8"]
    assert product["product / bare"]["median"] > 0 and product["why"] == "no GPU"
    assert steps["published"]["figures"]["hdf5"]["ours / published"]["median"] > 0
    assert steps["bitwise"]["figures"]["deterministic"] == 10
    arithmetic = steps["arithmetic"]["figures"]
    assert arithmetic["default / deterministic=false"]["low"] > 0
    page = out.with_suffix(".md").read_text()
    assert page in result.stdout
    assert all(
        f"| {name} | {step['outcome']} |" in page for name, step in steps.items()
    )
    labelled = steps["label_speed"]["figures"]["label_batch_8"]
    assert labelled["chunks"] == 40  # of 8 clips of 10 s, 2 s each
    assert labelled["bare"] > 0
    assert found["versions"]["torch"] and found["date"]


def test_a_step_that_fails_fails_the_check_and_skips_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken GPU would be reported as fit."""
    monkeypatch.setenv("PSL_FAULT", "point=step,step=2,action=exception")
    out = tmp_path / "gpu.json"
    result = check("--device", "cpu", "--only", "label", "--out", out)
    assert result.returncode == 1
    steps = json.loads(out.read_text())["steps"]
    assert {name: step["outcome"] for name, step in steps.items()} == {
        "pack": "passed",
        "train": "failed",
        "label": "skipped",
    }
    assert "an error at point step" in steps["train"]["reason"]
    assert steps["label"]["reason"] == "needs train, which did not pass"


def test_a_missing_package_has_its_own_status_and_a_pip_line(
    tmp_path: Path,
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever has the GPU for ten minutes would read a traceback instead."""
    (tmp_path / "setup.cfg").write_text(
        "[options]\ninstall_requires =\n    numpy>=1.26\n    psl-no-such-thing>=2\n"
    )
    monkeypatch.setattr(tool, "REPOSITORY", tmp_path)
    assert tool.main(["--device", "cpu"]) == 69
    assert "pip install 'psl-no-such-thing>=2'\n" in capsys.readouterr().err


def test_a_machine_without_a_gpu_has_that_status_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job script would take a CPU for a GPU that passed."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = check()
    assert result.returncode == 69
    assert "torch sees no GPU here" in result.stderr


def test_losses_too_far_from_the_plain_run_fail(tool: ModuleType) -> None:
    """Wrong numbers on a GPU would pass as rounding."""
    runner = importlib.import_module("tools.gpu.runner")
    plain = {1: 2.0, 2: 1.0}
    figures = runner.compare(plain, {1: 2.02, 2: 1.0}, 0.02)
    assert figures["largest"] == pytest.approx(0.01)
    for wrong in ({1: 2.0, 2: 1.03}, {1: 2.0, 2: float("nan")}, {1: 2.0}):
        with pytest.raises(runner.StepFailed):
            runner.compare(plain, wrong, 0.02)


def test_a_step_has_no_more_time_than_its_own(tmp_path: Path) -> None:
    """One slow step, a cold compilation, would take the time of all that follow."""
    runner = importlib.import_module("tools.gpu.runner")
    check = runner.Check("cpu", tmp_path, time.monotonic() + 1000, {}).within(1.5)
    start = time.monotonic()
    with pytest.raises(runner.StepFailed, match="sleepy took over 1 s|over 2 s"):
        check.run("sleepy", ["-c", "import time; time.sleep(60)"])
    assert time.monotonic() - start < 30
    soon = time.monotonic() + 5
    assert runner.Check("cpu", tmp_path, soon, {}).within(100).deadline == soon


def test_kinds_of_steps_take_turns_and_ratios_are_of_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU that slows down as it warms up would favour what is measured first."""
    rounds = importlib.import_module("tools.gpu.rounds")
    clock, done = [0.0], []

    def step(name: str, seconds: float) -> Callable[[], None]:
        def make() -> None:
            done.append(name)
            clock[0] += seconds * (1 + len(done) // 4)  # slower from round to round

        return make

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])
    kinds = {"a": step("a", 1.0), "b": step("b", 4.0)}
    found = rounds.in_turn(kinds, rounds=2, steps=2, chunks=8)
    assert "".join(done) == "aabb" + "bbaa" + "aabb"
    # after the 4th, 8th and 12th step times are 2, 3 and 4 times as long
    assert found == {
        "a": [16 / (1 * (2 + 3)), 16 / (1 * (3 + 3))],
        "b": [16 / (4 * (2 + 2)), 16 / (4 * (3 + 4))],
    }
    assert rounds.ratio(found, "a", "b") == {
        "median": pytest.approx((3.2 + 28 / 6) / 2),
        "low": pytest.approx(3.2),
        "high": pytest.approx(28 / 6),
        "unit": "ratio",
    }


def test_the_page_has_every_step_and_every_figure() -> None:
    """What was measured would be in a file that nobody reads."""
    table = importlib.import_module("tools.gpu.table")
    spread = {"median": 12345.6, "low": 0.8123, "high": 99.0, "unit": "chunks/s"}
    content = {
        "date": "2026-11-29",
        "command": "python -m tools.gpu.check",
        "versions": {"torch": "2.13.0", "triton": None},
        "machine": {
            "gpus": [{"name": "NVIDIA L4"}],
            "driver": "1",
            "cuda": "2",
            "cudnn": 3,
        },
        "steps": {
            "bare": {
                "outcome": "passed",
                "seconds": 1.6,
                "figures": {"batch 8": {"NHWC": spread, "kernels": 270}, "l": [1, 2]},
            },
            "graph": {"outcome": "failed", "seconds": 0.2, "reason": "a | b\nc"},
        },
    }
    lines = table.report(content).splitlines()
    assert lines[:2] == [
        "NVIDIA L4; 2026-11-29; `python -m tools.gpu.check`.",
        "Driver 1, CUDA 2, cuDNN 3, torch 2.13.0.",
    ]
    assert "| bare | passed | 2 | batch 8 kernels 270 |" in lines
    assert "| graph | failed | 0 | a / b c |" in lines
    assert lines[-1] == "| bare, batch 8, NHWC | 12,346 | 0.812 to 99 | chunks/s |"


def test_a_command_that_hangs_is_ended(tool: ModuleType) -> None:
    """One stuck collective would take the whole of the time on the GPU."""
    runner = importlib.import_module("tools.gpu.runner")
    child = "import subprocess,sys; subprocess.run([sys.executable,'-c',%r])"
    command = [sys.executable, "-c", child % "import time; time.sleep(60)"]
    start = time.monotonic()
    assert runner._run(command, subprocess.DEVNULL, 1.0, {}) is None
    assert time.monotonic() - start < 30
