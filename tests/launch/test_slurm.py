"""The files of launch/slurm on a real SLURM of two nodes."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psl import train
from psl.weights.checkpoint import load_newest
from tests.conftest import Run, Source
from tests.learning import (
    REPOSITORY,
    folder_bytes,
    losses,
    num_different,
    teacher_config,
    tiny_config,
    torchrun,
)
from tests.needs import needs
from tests.slurm import Cluster, running_cluster, wait_until

pytestmark = needs("slurm")

LAUNCH = REPOSITORY / "launch" / "slurm"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes that work in folders of their own."""
    # a short path, since those of sockets may have 107 bytes
    with (
        tempfile.TemporaryDirectory() as folder,
        running_cluster(Path(folder) / "slurm") as cluster,
    ):
        yield cluster


def test_an_array_packs_the_same_bytes_as_one_process(
    cluster: Cluster, tmp_path: Path, source: Source, run: Run
) -> None:
    """Two million clips take a day on one machine; on many, they would be others."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    words = source.pack_arguments(together)
    script = LAUNCH / "pack_array.sbatch"
    array = cluster.submit("--array=0-2", script, *words)
    merge = cluster.submit(f"--dependency=afterok:{array}", script, *words, "--merge")
    assert run("shards.pack", *source.pack_arguments(alone)).returncode == 0
    states = [task["JobState"] for task in cluster.wait_for_end(array)]
    assert states == ["COMPLETED"] * 3, cluster.output()
    assert cluster.wait_for_end(merge)[0]["JobState"] == "COMPLETED", cluster.output()
    assert folder_bytes(together) == folder_bytes(alone)


def test_an_array_labels_like_one_process_though_a_task_meets_its_limit(
    cluster: Cluster, tmp_path: Path, dataset: Path, run: Run
) -> None:
    """Labels would depend on the cluster, or a short time limit leave them undone."""
    train.main(teacher_config(tmp_path, dataset))
    words = [f"teacher={tmp_path / 'run'}", f"audio={dataset}", "chunk_seconds=1"]
    script, together = LAUNCH / "label_array.sbatch", tmp_path / "together"
    # four processes for three shards
    array = cluster.submit(
        "--array=0-1", "--ntasks=2", script, *words, f"out={together}"
    )
    cluster.wait_for_state(f"{array}_0", "RUNNING")
    wait_until(
        lambda: bool(cluster.workers("psl.label")),
        seconds=60,
        what=lambda: f"task 0 does nothing: {cluster.output()}",
    )
    cluster.run("scancel", "--batch", "--signal=USR2", f"{array}_0")
    cluster.start_again(f"{array}_0")
    result = run("psl.label", *words, f"out={tmp_path / 'alone'}")
    assert result.returncode == 0, result.stderr
    tasks = cluster.wait_for_end(array)
    assert [task["JobState"] for task in tasks] == ["COMPLETED"] * 2, cluster.output()
    assert sorted(task["Restarts"] for task in tasks) == ["0", "1"]
    assert num_different(tmp_path / "alone") > 40  # of 48
    assert folder_bytes(together) == folder_bytes(tmp_path / "alone")


def test_a_two_node_run_is_requeued_before_its_limit_and_ends_as_if_undisturbed(
    cluster: Cluster, tmp_path: Path, dataset: Path
) -> None:
    """A cluster's limit is a day; a run of a week would end there, or start anew.

    The ranks are frozen from the moment we have seen enough until SLURM's signal is
    there, so that the run is neither over before it nor takes the time of a long one.
    """
    words = ["epochs=8", "model.dropout=0.3"]
    whole = tiny_config(tmp_path / "whole", dataset, *words)
    config = tiny_config(tmp_path, dataset, *words)
    run_dir = tmp_path / "run"
    job = cluster.submit("--nodes=2", LAUNCH / "train.sbatch", *config, RUN_DIR=run_dir)
    wait_until(
        lambda: steps_logged(run_dir) > 8,
        seconds=120,
        what=lambda: f"no steps; {cluster.output()}",
    )
    ranks = cluster.workers("psl.train")
    assert len(ranks) == 2
    for rank in ranks:
        rank.suspend()
    assert steps_logged(run_dir) < 40
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    result = torchrun(2, "psl.train", *whole)  # while the others are idle
    assert result.returncode == 0, result.stderr
    wait_until(
        (run_dir / "PREEMPT").exists,
        seconds=100,
        what=lambda: f"no signal 5 minutes before the limit; {cluster.output()}",
    )
    for rank in ranks:
        rank.resume()
    cluster.start_again(job)
    assert cluster.wait_for_end(job)[0]["JobState"] == "COMPLETED", cluster.output()
    status = read_status(run_dir)
    assert (status["state"], status["attempts"], status["step"]) == ("done", 2, 48)
    assert 8 <= status["start_step"] < 48
    assert losses(run_dir) == losses(tmp_path / "whole" / "run")
    assert json.loads((run_dir / "run.json").read_text())["world_size"] == 2


def test_a_refused_configuration_is_not_requeued(
    cluster: Cluster, tmp_path: Path, dataset: Path
) -> None:
    """A typo would come back every two minutes until somebody looks."""
    config = tiny_config(tmp_path, dataset, "epoch=3")
    run_dir = tmp_path / "run"
    job = cluster.submit("--nodes=2", LAUNCH / "train.sbatch", *config, RUN_DIR=run_dir)
    (facts,) = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "78:0")
    assert facts["Restarts"] == "0"
    assert read_status(run_dir)["state"] == "bad_config"
    assert "did you mean 'epochs'" in read_status(run_dir)["message"]


def test_a_job_whose_run_never_starts_is_not_requeued(
    cluster: Cluster, tmp_path: Path, dataset: Path
) -> None:
    """There is no status to count such starts by; they would go on for ever."""
    config, run_dir = tiny_config(tmp_path, dataset), tmp_path / "run"
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        job = cluster.submit(
            LAUNCH / "train.sbatch",
            *config,
            RUN_DIR=run_dir,
            RDZV_PORT=str(taken.getsockname()[1]),
        )
        (facts,) = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "1:0")
    assert facts["Restarts"] == "0" and not (run_dir / "status.json").exists()


def test_a_run_that_always_dies_at_the_same_step_is_requeued_only_so_often(
    cluster: Cluster, tmp_path: Path, dataset: Path
) -> None:
    """A broken file would burn the whole allocation, one start at a time."""
    config = tiny_config(tmp_path, dataset, "attempt.max_futile_starts=1")
    run_dir = tmp_path / "run"
    job = cluster.submit(
        "--nodes=2",
        LAUNCH / "train.sbatch",
        *config,
        RUN_DIR=run_dir,
        PSL_FAULT="rank=1,point=step,step=3,action=kill",
    )
    cluster.start_again(job)
    (facts,) = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "93:0"), facts
    assert facts["Restarts"] == "1"
    assert read_status(run_dir)["state"] == "stuck"
    assert not cluster.workers("psl.train")


def test_a_cancelled_run_leaves_a_checkpoint_and_stays_away(
    cluster: Cluster, tmp_path: Path, dataset: Path
) -> None:
    """The hours since the last checkpoint would be lost, or the job be immortal."""
    config = tiny_config(tmp_path, dataset, "epochs=1000")
    run_dir = tmp_path / "run"
    job = cluster.submit(
        "--gpus-per-node=2", LAUNCH / "train.sbatch", *config, RUN_DIR=run_dir
    )
    wait_until(
        lambda: steps_logged(run_dir) > 8,
        seconds=120,
        what=lambda: f"no steps; {cluster.output()}",
    )
    # a process for each GPU that SLURM gave to the job
    assert json.loads((run_dir / "run.json").read_text())["world_size"] == 2
    cluster.run("scancel", job)
    (facts,) = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    status = read_status(run_dir)
    assert status["state"] == "preempted" and status["step"] >= 8
    newest = load_newest(run_dir)
    assert newest and 6 * newest.training.epoch <= status["step"]


def read_status(run_dir: Path) -> dict[str, Any]:
    """What a run says of itself."""
    return json.loads((run_dir / "status.json").read_text())


def steps_logged(run_dir: Path) -> int:
    """Steps whose loss is in the log, which may be being written."""
    path = run_dir / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0
