"""The average of the best checkpoints, and what a run stands for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psl import average, evaluate, train
from psl.weights.checkpoint import (
    best_steps,
    checkpoint_folder,
    load_checkpoint,
    load_newest,
)
from shards.errors import ShardError
from tests.jobs import start
from tests.learning import tiny_config

WORDS = ("epochs=4", "keep_best=3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run that ended in the average of its best 3; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    train.main(tiny_config(folder, dataset, *WORDS, "average_best=3"))
    return folder / "run"


def result(run: Path) -> dict[str, object]:
    """What result.json says."""
    return json.loads((run / "result.json").read_text())


def best_three(run: Path) -> list[int]:
    """The steps of the best 3 validations."""
    newest = load_newest(run)
    assert newest is not None
    return best_steps(newest.training.history, 3)


def test_the_average_is_the_mean_of_the_best_by_validation(finished: Path) -> None:
    """The paper's students are such means, BatchNorm statistics included."""
    parts = [
        load_file(checkpoint_folder(finished, step) / "model.safetensors")
        for step in best_three(finished)
    ]
    found = load_file(finished / "checkpoints/average/model.safetensors")
    for name, tensor in found.items():
        if name.endswith("num_batches_tracked"):
            assert tensor == sum(int(part[name]) for part in parts) // 3
        else:
            mean = torch.stack([part[name] for part in parts]).mean(dim=0)
            assert torch.allclose(tensor, mean, rtol=1e-5, atol=1e-7), name


def test_a_run_stands_for_its_average_and_says_so(
    finished: Path, tmp_path: Path, dataset: Path
) -> None:
    """Labels and reported figures would come from another model than result.json's."""
    assert load_checkpoint(finished).folder.name == "average"
    said = result(finished)["average"]
    assert isinstance(said, dict) and said["steps"] == best_three(finished)
    words = [f"checkpoint={finished}", f"audio={dataset}", f"out={tmp_path}/out"]
    evaluate.main(words)
    measured = json.loads((tmp_path / "out/metrics.json").read_text())["mAP"]
    assert measured == pytest.approx(said["valid_mAP"], abs=5e-3)


def test_the_command_averages_a_run_that_did_not(
    finished: Path, tmp_path: Path, dataset: Path
) -> None:
    """Who forgot average_best would have to train again; a later start of the finished
    run would forget the average.
    """
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "checkpoints/average")
    values = result(run)
    (run / "result.json").write_text(json.dumps({**values, "average": None}))
    assert load_checkpoint(run).folder.name == values["best_checkpoint"]
    average.main([f"run={run}", "k=3"])
    assert result(run) == values
    folder = "checkpoints/average/model.safetensors"
    assert (run / folder).read_bytes() == (finished / folder).read_bytes()
    train.main(tiny_config(tmp_path, dataset, *WORDS))
    assert result(run)["average"] == values["average"]
    average.main([f"run={run}", "k=1"])
    best = load_checkpoint(checkpoint_folder(run, best_three(run)[0]))
    one = load_checkpoint(run)
    assert all(torch.equal(one.weights[n], t) for n, t in best.weights.items())


def test_an_average_that_cannot_be_made_is_refused(
    finished: Path, tmp_path: Path, dataset: Path
) -> None:
    """A run would end without what it was told to end with; or a half be averaged."""
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(checkpoint_folder(run, best_three(run)[1]))
    with pytest.raises(ShardError, match="cannot be averaged; train with keep_best"):
        average.main([f"run={run}", "k=2"])
    (run / "result.json").unlink()
    with pytest.raises(ShardError, match="not a finished run"):
        average.main([f"run={run}"])
    words = tiny_config(tmp_path / "new", dataset, "average_best=5", "keep_best=4")
    with pytest.raises(ValueError, match="average_best 5 of keep_best 4"):
        train.main(words)


def test_averaging_that_was_killed_is_done_by_the_next_start(
    finished: Path, tmp_path: Path, dataset: Path
) -> None:
    """A run would never be finished, or stand for a checkpoint that nobody measured."""
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "checkpoints/average")
    (run / "result.json").unlink()
    words = tiny_config(tmp_path, dataset, *WORDS, "average_best=3")
    job = start(tmp_path, words, fault="step=24,point=evaluate,action=kill")
    assert job.wait() == [-9], job.output
    assert not (run / "result.json").exists()
    assert load_checkpoint(run).folder.name != "average"
    job = start(tmp_path, words)
    assert job.wait() == [0], job.output
    assert result(run) == result(finished)
