"""Launchers other than torchrun, with the files of launch/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from psl import train
from psl.distributed import launch, zero
from psl.job.status import read_status
from psl.weights.checkpoint import list_checkpoints
from tests.jobs import start, step_reached
from tests.learning import (
    REPOSITORY,
    distance_moved,
    losses,
    state,
    tiny_config,
    torchrun,
)


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


def test_ranks_share_what_they_must_and_notice_when_they_disagree() -> None:
    """Each rank would evaluate another model; or all would hang, hours later."""
    result = torchrun(2, "tests.two_ranks")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("means are taken over the ranks") == 2
    assert result.stdout.count("what rank 0 cannot read, none can") == 2
    assert result.stdout.count("weights are those of rank 0") == 2
    assert result.stdout.count("disagreement is an error") == 2
    assert result.stdout.count("a member that fails on one rank is known to both") == 2


def test_a_rank_without_a_gpu_of_its_own_is_told_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Users would read torch's "invalid device ordinal" from inside accelerate."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="local rank 2 needs GPU 2, .* shows 2; start"):
        launch.join_job()


def test_a_killed_rank_ends_the_job_and_the_next_goes_on_to_the_same_losses(
    tmp_path: Path, dataset: Path
) -> None:
    """A node failure would leave a hanging job, or another result."""
    words = ["epochs=3", "model.dropout=0.3"]
    whole = tiny_config(tmp_path / "whole", dataset, *words)
    killed = tiny_config(tmp_path / "killed", dataset, *words)
    assert torchrun(2, "psl.train", *whole).returncode == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    job = subprocess.Popen(
        [*launcher, "--nproc-per-node", "2", "-m", "psl.train", *killed],
        stderr=subprocess.DEVNULL,
    )
    metrics = tmp_path / "killed" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and '"step": 8,' in metrics.read_text()):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    psutil.Process(job.pid).children()[-1].kill()
    assert job.wait(timeout=60) != 0
    result = torchrun(2, "psl.train", *killed)
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "killed" / "run") == losses(tmp_path / "whole" / "run")


def test_torchrun_starts_a_lost_job_again_and_it_goes_on_by_itself(
    tmp_path: Path, dataset: Path
) -> None:
    """A node failure at night would end a run, or begin it anew."""
    words = ["epochs=2", "save_every=2", "attempt.timeout_seconds=60"]
    whole = tiny_config(tmp_path / "whole", dataset, *words)
    assert start(tmp_path / "whole", whole, ranks=2).wait() == [0, 0]
    killed = tiny_config(tmp_path / "killed", dataset, *words)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--max-restarts", "2", "-m", "psl.train"]
    result = subprocess.run(
        [*launcher, *killed],
        capture_output=True,
        text=True,
        timeout=240,
        env={
            **os.environ,
            "PSL_FAULT": "rank=1,step=5,restart=0,point=step,action=kill",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # torch 2.13 hangs without
        },
    )
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "killed" / "run") == losses(tmp_path / "whole" / "run")
    assert read_status(tmp_path / "killed" / "run").attempts == 2  # type: ignore


@pytest.mark.parametrize("request_by", ["signal", "file"])
def test_a_request_to_stop_ends_torchrun_with_a_checkpoint_and_no_restart(
    tmp_path: Path, dataset: Path, request_by: str
) -> None:
    """Torchrun starts again whatever does not end with 0, preempted or not."""
    words = tiny_config(tmp_path, dataset, "epochs=200", "patience=null")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--max-restarts", "2", "-m", "psl.train"]
    job = subprocess.Popen([*launcher, *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while step_reached(tmp_path / "run") < 3:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if request_by == "signal":
        job.terminate()
    else:
        (tmp_path / "run" / "PREEMPT").touch()
    assert job.wait(timeout=120) != 0
    ended = read_status(tmp_path / "run")
    assert ended is not None and ended.state == "preempted" and ended.step >= 3
    assert list_checkpoints(tmp_path / "run")[-1].name == f"step_{ended.step:08d}"


def test_deepspeed_clips_gradients_as_the_config_says(
    tmp_path: Path, dataset: Path
) -> None:
    """DeepSpeed reads its own file only, and clips at 1.0 if that says nothing.

    Adam divides by the gradient's size plus 1e-8, so clipped to 1e-14 nothing moves.
    """
    pytest.importorskip("deepspeed")
    words = tiny_config(tmp_path, dataset, "epochs=1", "optim.clip_grad_norm=1e-14")
    result = accelerate_launch("zero2.yaml", *words)
    assert result.returncode == 0, result.stderr[-3000:]
    assert distance_moved(tmp_path / "run") < 1e-6


@pytest.mark.parametrize(
    ("strategy", "stage", "place"),
    [
        ("ddp", "2", "stage 2, the config strategy ddp"),
        ("zero1", "3", "strategy zero1"),
    ],
)
def test_a_launcher_that_asks_for_another_strategy_is_contradicted(
    tmp_path: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    stage: str,
    place: str,
) -> None:
    """Somebody who measures two strategies would measure one twice."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage)
    with pytest.raises(ValueError, match=place):
        train.main(tiny_config(tmp_path, dataset, f"strategy={strategy}"))
    assert state(tmp_path / "run") == "bad_config"


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"gradient_clipping": 1.0}, "gradient_clipping 1.0, ours 0.0"),
        ({"train_batch_size": 64}, "train_batch_size 64, ours 8"),
        ({"bf16": {"enabled": True}}, "enables bf16"),
        ({"torch_autocast": {"enabled": True}}, "enables torch_autocast"),
        ({"zero_optimization": {"stage": 0}}, "stage 0, expected 1, 2 or 3"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer.device cpu",
        ),
    ],
)
def test_a_deepspeed_file_that_says_otherwise_is_refused(
    settings: dict[str, object], place: str
) -> None:
    """DeepSpeed would go by its file, and the run's config.yaml tell a lie."""
    settings = {"zero_optimization": {"stage": 2}, **settings}
    with pytest.raises(ValueError, match=place):
        zero.stage_of(settings)
        zero.complete(
            settings,
            micro_batch_size=4,
            num_processes=2,
            accumulation_steps=1,
            clip_grad_norm=None,
            bf16=False,
        )


def test_zero_without_a_launcher_is_refused(tmp_path: Path, dataset: Path) -> None:
    """DeepSpeed would look for an MPI, and fail with a traceback."""
    pytest.importorskip("deepspeed")
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 1"):
        train.main(tiny_config(tmp_path, dataset, "strategy=zero2"))
