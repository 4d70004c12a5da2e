"""The files of launch/accelerate and launch/deepspeed, as accelerate reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from psl.config_values import read_yaml
from psl.weights.checkpoint import load_checkpoint
from tests.learning import REPOSITORY, losses, tiny_config

LAUNCH = REPOSITORY / "launch"
CONFIGS = {
    "cpu_2_processes": ("MULTI_GPU", 1, 2),
    "one_gpu": ("NO", 1, 1),
    "one_node": ("MULTI_GPU", 1, 8),
    "several_nodes": ("MULTI_GPU", 2, 16),
    "zero1": ("DEEPSPEED", 1, 2),
    "zero2": ("DEEPSPEED", 1, 2),
    "zero3": ("DEEPSPEED", 1, 2),
}


def test_every_accelerate_config_is_known_here() -> None:
    """One added without a test would be found broken by a user."""
    assert {path.stem for path in (LAUNCH / "accelerate").iterdir()} == CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_its_config(name: str) -> None:
    """It refuses unknown keys, and takes a bare no for False, hours into a queue."""
    config = load_config_from_file(str(LAUNCH / "accelerate" / f"{name}.yaml"))
    kind, machines, processes = CONFIGS[name]
    assert str(config.distributed_type.value) == kind
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert config.mixed_precision == "no"
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(name[-1])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_deepspeed_files_leave_batch_and_clipping_to_us(stage: int) -> None:
    """DeepSpeed would refuse to start, or clip as the file says and not as we do."""
    values = json.loads((LAUNCH / "deepspeed" / f"zero{stage}.json").read_text())
    assert values.pop("zero_optimization")["stage"] == stage
    assert set(values.values()) == {"auto"} and len(values) == 4


@pytest.mark.parametrize("launcher", ["zero1.yaml", "zero2.json", "zero3.yaml"])
def test_deepspeed_trains_with_the_shipped_files(
    tmp_path: Path, dataset: Path, launcher: str
) -> None:
    """Who brings a DeepSpeed JSON would be told it contradicts ours."""
    pytest.importorskip("deepspeed")
    words = ["--config_file", str(LAUNCH / "accelerate" / launcher)]
    if launcher.endswith(".json"):
        words = ["--use_deepspeed", "--deepspeed_config_file"]
        words += [str(LAUNCH / "deepspeed" / launcher)]
        words += ["--num_processes", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words]
        + ["--main_process_port", "0", "-m", "psl.train"]
        + tiny_config(tmp_path, dataset, "epochs=1"),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    logged = losses(tmp_path / "run")
    assert len(logged) == 6 and logged[6] < logged[1]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["world_size"] == 2
    assert read_yaml(tmp_path / "run" / "config.yaml")["strategy"] == launcher[:5]
    load_checkpoint(tmp_path / "run").build_model()


def fake(folder: Path, name: str, script: str) -> None:
    """A program ``name`` in ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("per_node", ["4", "4(x2)", "4,3"])
def test_the_processes_of_a_labelling_task_share_a_cache_and_not_their_cores(
    tmp_path: Path, per_node: str
) -> None:
    """Each would count on the whole of loader.cache_gb, and wait for the others' room,
    or, told how many they are, have a quarter of the threads that its cores are for.
    """
    show = "echo $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $*"
    fake(tmp_path / "bin", "python", show)
    step = f"SLURM_PROCID=3 SLURM_LOCALID=2 SLURM_STEP_TASKS_PER_NODE='{per_node}'"
    fake(tmp_path / "bin", "srun", f'shift 2; {step} exec "$@"')
    result = subprocess.run(
        ["bash", LAUNCH / "slurm" / "label_array.sbatch", "out=x", "loader.prefetch=2"],
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_CPUS_PER_TASK": "6",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    words = "-m psl.label loader.threads=6 out=x loader.prefetch=2"
    assert result.stdout == f"3 2 4 {words}\n", result.stderr
