"""The files of launch/slurm on a real SLURM of two nodes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from psl import train
from tests.conftest import Run, Source
from tests.learning import REPOSITORY, folder_bytes, tiny_config
from tests.slurm import Cluster, missing_programs, running_cluster, wait_until

LAUNCH = REPOSITORY / "launch" / "slurm"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes that work in folders of their own."""
    if missing := missing_programs():
        reason = f"no {', '.join(missing)}; apt-get install slurm-wlm munge, as root"
        assert "PSL_CI" not in os.environ, reason
        pytest.skip(reason)
    # a short path, since those of sockets may have 107 bytes
    with tempfile.TemporaryDirectory() as folder:
        with running_cluster(Path(folder) / "slurm") as cluster:
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
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    words = [f"teacher={tmp_path / 'run'}", f"audio={dataset}", "chunk_seconds=1"]
    script, together = LAUNCH / "label_array.sbatch", tmp_path / "together"
    # four processes for three shards
    array = cluster.submit(
        "--array=0-1", "--ntasks=2", script, *words, f"out={together}"
    )
    cluster.wait_for_state(f"{array}_0", "RUNNING")
    wait_until(
        lambda: "psl.label" in cluster.commands(),
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
    assert folder_bytes(together) == folder_bytes(tmp_path / "alone")
