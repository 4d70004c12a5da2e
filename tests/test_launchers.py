"""Launchers other than torchrun, with the files of launch/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from psl.checkpoint import load_checkpoint
from tests.learning import REPOSITORY, losses, tiny_config


def accelerate_launch(config: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``accelerate launch --config_file launch/accelerate/CONFIG -m psl.train ...``."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launcher += [str(REPOSITORY / "launch" / "accelerate" / config)]
    command = [*launcher, "--main_process_port", "0", "-m", "psl.train", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def test_accelerate_launch_starts_two_processes_on_a_cpu(
    tmp_path: Path, dataset: Path
) -> None:
    """MULTI_CPU would start one process in silence and train on half of the cores."""
    words = tiny_config(tmp_path, dataset, "epochs=1")
    result = accelerate_launch("cpu_2_processes.yaml", *words)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world_size"] == 2


def test_deepspeed_trains_on_two_ranks_and_its_weights_load_anywhere(
    tmp_path: Path, dataset: Path
) -> None:
    """Every rank would believe it is alone, or gradients would be clipped unasked.

    With clipping at 1e-9 Adam still moves; without our writing the value into
    DeepSpeed's config, 1.0 would apply.
    """
    pytest.importorskip("deepspeed")
    words = tiny_config(tmp_path, dataset, "epochs=2")
    result = accelerate_launch("zero2.yaml", *words)
    assert result.returncode == 0, result.stderr[-3000:]
    logged = losses(tmp_path / "run")
    assert len(logged) == 12 and logged[12] < logged[1]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world_size"] == 2
    checkpoint = load_checkpoint(tmp_path / "run")
    checkpoint.build_model()
    again = accelerate_launch("zero2.yaml", *words[:1], "epochs=2")
    assert again.returncode != 0 and "cannot be resumed" in again.stderr
