"""tools/gpu/check.py, on the CPU: everything of it but CUDA itself."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
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
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
def test_the_check_tries_everything_and_says_what_it_left_out(tmp_path: Path) -> None:
    """An hour on a rented GPU would go by before the tool's own mistake shows."""
    out = tmp_path / "gpu.json"
    result = check("--device", "cpu", "--out", out, "--work", tmp_path / "work")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(out.read_text())
    steps = found["steps"]
    skipped = {n: s["reason"] for n, s in steps.items() if s["outcome"] == "skipped"}
    assert skipped.keys() == {"cpu", "compiled", "compiled_bf16", "deepspeed"}
    assert all(reason.startswith("--device cpu: ") for reason in skipped.values())
    assert {s["outcome"] for s in steps.values()} == {"passed", "skipped"}
    assert len(steps) == 15
    # 40 clips of 2 s are 80 chunks of 1 s, 10 batches of 8
    assert len(steps["train"]["figures"]["losses"]) == 10
    assert steps["evaluate"]["figures"]["num_clips"] == 40
    assert steps["ranks"]["figures"]["ranks"] == 2
    assert steps["resume"]["figures"]["steps_bit_for_bit"] == 10  # on a CPU
    assert 0 < steps["bf16"]["figures"]["largest"] <= 0.1
    for speed in steps["train_speed"]["figures"].values():
        assert speed["chunks_per_second"] > 0
        assert 0 <= speed["wait_share"] < 1
    labelled = steps["label_speed"]["figures"]["label_batch_8"]
    assert labelled["chunks"] == 40  # of 8 clips of 10 s, 2 s each
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


def test_a_command_that_hangs_is_ended(tool: ModuleType) -> None:
    """One stuck collective would take the whole of the time on the GPU."""
    runner = importlib.import_module("tools.gpu.runner")
    child = "import subprocess,sys; subprocess.run([sys.executable,'-c',%r])"
    command = [sys.executable, "-c", child % "import time; time.sleep(60)"]
    start = time.monotonic()
    assert runner._run(command, subprocess.DEVNULL, 1.0, {}) is None
    assert time.monotonic() - start < 30
