"""The moving average of the weights: its arithmetic, and what is saved and used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from psl import train
from psl.evaluation import scoring
from psl.evaluation.metrics import Metrics
from psl.training import loop
from psl.training.averages import MovingAverage
from psl.weights.checkpoint import checkpoint_folder, load_checkpoint, load_newest
from tests.jobs import start
from tests.learning import losses, tiny_config, torchrun

WORDS = ("save_every=4", "model.dropout=0.3", "optim.ema_decay=0.9", "epochs=3")
STEPS = 18


def tensors(run: Path, step: int, file: str) -> dict[str, torch.Tensor]:
    """What a safetensors file of a checkpoint holds."""
    return load_file(checkpoint_folder(run, step) / file)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A finished run whose weights were averaged; not to be changed."""
    folder = tmp_path_factory.mktemp("averaged")
    train.main(tiny_config(folder, dataset, *WORDS))
    return folder / "run"


def test_the_average_is_that_of_the_formula() -> None:
    """Users would compare decays of other programs with something else.

    With decay 0.2: 2/11 of the old is kept in step 1, 0.2 from step 2 on.
    """
    trained = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model.load_state_dict(trained.state_dict())
    source, copied = trained.state_dict(), model.state_dict()  # views, not copies
    copied["0.weight"].fill_(1.0)
    average = MovingAverage(model, trained, decay=0.2)
    source["0.weight"].fill_(2.0)
    average.update(1)
    assert copied["0.weight"].item() == pytest.approx(20 / 11)
    source["0.weight"].fill_(4.0)
    source["1.running_mean"].fill_(10.0)
    source["1.num_batches_tracked"].fill_(7)
    average.update(2)
    assert copied["0.weight"].item() == pytest.approx(0.2 * 20 / 11 + 0.8 * 4)
    assert copied["1.running_mean"].item() == pytest.approx(8.0)
    assert copied["1.running_var"].item() == 1.0
    assert copied["1.num_batches_tracked"].item() == 7
    assert source["0.weight"].item() == 4.0 and not model.training


def test_averaging_changes_what_is_used_and_not_what_is_trained(
    tmp_path: Path, dataset: Path, averaged: Path
) -> None:
    """The option would disturb the training it is to sum up, or do nothing."""
    plain = [word for word in WORDS if "ema" not in word]
    train.main(tiny_config(tmp_path, dataset, *plain))
    assert losses(averaged) == losses(tmp_path / "run")
    raw = tensors(tmp_path / "run", STEPS, "model.safetensors")
    trained = tensors(averaged, STEPS, "trained.safetensors")
    used = tensors(averaged, STEPS, "model.safetensors")
    name = "classifier.1.weight"
    assert all(torch.equal(raw[n], trained[n]) for n in raw)
    assert not torch.allclose(used[name], raw[name], rtol=1e-3)
    statistic = "features.0.1.running_mean"
    assert not torch.equal(used[statistic], raw[statistic])
    assert not (
        checkpoint_folder(tmp_path / "run", STEPS) / "trained.safetensors"
    ).exists()


def test_what_is_validated_is_what_is_saved(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints would be chosen by weights that nobody gets."""
    seen: list[dict[str, torch.Tensor]] = []

    def measure(model: nn.Module, *args: Any, **options: Any) -> Metrics:
        assert not model.training
        seen.append({name: t.clone() for name, t in model.state_dict().items()})
        return scoring.measure(model, *args, **options)

    monkeypatch.setattr(loop, "measure", measure)
    train.main(tiny_config(tmp_path, dataset, "optim.ema_decay=0.9"))
    assert len(seen) == 2
    for step, validated in zip((6, 12), seen, strict=True):
        saved = load_checkpoint(checkpoint_folder(tmp_path / "run", step)).weights
        assert all(torch.equal(saved[name], validated[name]) for name in validated)


def test_a_killed_run_goes_on_with_the_same_average(
    tmp_path: Path, dataset: Path, averaged: Path
) -> None:
    """A preempted job would end with another model."""
    words = tiny_config(tmp_path, dataset, *WORDS)
    for step in (7, 14):
        job = start(tmp_path, words, fault=f"step={step},point=step,action=kill")
        assert job.wait() == [-9], job.output
    job = start(tmp_path, words)
    assert job.wait() == [0], job.output
    assert losses(tmp_path / "run") == losses(averaged)
    for file in ("model", "trained", "optimizer"):
        before = tensors(averaged, STEPS, f"{file}.safetensors")
        after = tensors(tmp_path / "run", STEPS, f"{file}.safetensors")
        assert all(torch.equal(before[name], after[name]) for name in before), file


def test_damage_to_the_trained_weights_is_noticed(
    averaged: Path, tmp_path: Path
) -> None:
    """A run would go on from noise."""
    file = checkpoint_folder(averaged, STEPS) / "trained.safetensors"
    data = file.read_bytes()
    try:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.warns(UserWarning, match="trained.safetensors: bytes differ"):
            newest = load_newest(averaged)
        assert newest is not None and newest.folder.name == "step_00000016"
    finally:
        file.write_bytes(data)


def test_two_ranks_save_one_average(tmp_path: Path, dataset: Path) -> None:
    """BatchNorm statistics of rank 0 alone would stand for all.

    Both ranks' statistics are averaged before they are saved, so what is trained on
    and its moving average have equal means when the decay forgets at once.
    """
    words = ["epochs=1", "optim.ema_decay=1e-9"]
    result = torchrun(2, "psl.train", *tiny_config(tmp_path, dataset, *words))
    assert result.returncode == 0, result.stderr
    used = tensors(tmp_path / "run", 6, "model.safetensors")
    trained = tensors(tmp_path / "run", 6, "trained.safetensors")
    for name in used:
        assert torch.allclose(used[name], trained[name], rtol=1e-5, atol=1e-7), name
