"""The words that train.sbatch hands to training, without SLURM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.learning import REPOSITORY

STUBS = {
    "scontrol": "echo ' NodeAddr=localhost'",
    "srun": 'while [ "$1" != bash ]; do shift; done; exec "$@"',
    "torchrun": 'while [ "$1" != psl.train ]; do shift; done; shift\n'
    'exec python -m psl.train "$@" --print-config >"$PRINTED"',
}


@pytest.mark.parametrize("name", ["runs/my run #1", "2026-11-28", "a: b::c"])
def test_the_run_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    """The run would train in one folder, and its state be asked of another."""
    for command, text in STUBS.items():
        path = tmp_path / "bin" / command
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    printed = tmp_path / "printed.yaml"
    path_of_commands = (
        f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    slurm = {"JOB_ID": "7", "JOB_NUM_NODES": "1", "NODEID": "0"}
    done = subprocess.run(
        ["bash", str(REPOSITORY / "launch/slurm/train.sbatch")]
        + ["data.audio=[a]", "data.valid=v"],
        cwd=tmp_path,
        env={
            **os.environ,
            **{f"SLURM_{key}": value for key, value in slurm.items()},
            "SLURMD_NODENAME": "here",
            "RUN_DIR": name,
            "PATH": path_of_commands,
            "PRINTED": str(printed),
            "PYTHONPATH": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "the run did not start" in done.stderr
    assert done.stdout.startswith(f"failed\t{name}: never started")
    assert yaml.safe_load(printed.read_text())["run_dir"] == name
    assert (tmp_path / name).is_dir()
