"""Groups of parameters: who learns how fast, and what decays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from psl import train
from psl.models.families import FAMILIES, build_from_config, build_model
from psl.training.config import OptimConfig
from psl.training.optim import (
    build_optimizer,
    layers,
    optimizer_tensors,
    put_optimizer_tensors,
    rate_factors,
    set_learning_rate,
)
from psl.weights.checkpoint import checkpoint_folder, load_checkpoint, load_optimizer
from tests.jobs import start
from tests.learning import losses, tiny_config
from tests.tiny_models import TINY

WORDS = (
    *("optim.layer_decay=0.5", "optim.classifier_factor=4", "optim.name=adamw"),
    *("optim.weight_decay=0.1", "save_every=4"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_layers_in_order(name: str) -> None:
    """The stem of a pretrained model would move most, or a weight not at all."""
    model = build_model(name, num_classes=11, **TINY[name])
    found = layers(model)
    names = [parameter for layer in found for parameter in layer]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    assert len(found) >= 4  # a model that is one layer could not be decayed
    head = [n for n in names if n.startswith(FAMILIES[name].classifier)]
    assert head and set(head) <= set(found[-1])
    stem, _ = next(model.named_parameters())
    assert stem in found[0] and stem not in head


def test_the_layers_of_the_paper_s_model_are_its_blocks() -> None:
    """A block's convolutions would learn at rates of their own."""
    found = layers(build_model(num_classes=2))
    prefixes = [{".".join(name.split(".")[:2]) for name in layer} for layer in found]
    assert prefixes == [{f"features.{n}"} for n in range(19)] + [{"classifier.1"}]


def test_rates_fall_from_the_classifier_to_the_stem_by_the_factor() -> None:
    """Published recipes (0.75 per layer) could not be followed."""
    model = build_model(num_classes=2)
    factors = rate_factors(model, layer_decay=0.5, classifier_factor=3.0)
    assert factors["classifier.1.bias"] == 3.0
    assert factors["features.18.0.weight"] == 0.5
    assert factors["features.0.1.bias"] == 0.5**19
    config = OptimConfig(layer_decay=0.5, classifier_factor=3.0)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.2)
    rates = {
        id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]
    }
    named = dict(model.named_parameters())
    assert rates[id(named["classifier.1.weight"])] == pytest.approx(0.6)
    assert rates[id(named["features.17.conv.0.0.weight"])] == pytest.approx(0.05)


def test_a_parameter_moves_by_its_layer_s_share_of_the_rate() -> None:
    """The factors would be computed and not used.

    Adam's first step is the learning rate, whatever the gradient.
    """
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_optimizer(model, OptimConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    moved = [-parameter.item() for parameter in model.parameters()]
    expected = [0.025, 0.025, 0.05, 0.05, 0.1, 0.1]
    assert moved == pytest.approx(expected, rel=1e-5)


def test_adamw_takes_a_share_off_weights_and_nothing_off_biases_and_norms() -> None:
    """A recipe with decoupled decay would be another, and norms shrink to nothing.

    Without a gradient, a step at rate 0.1 and decay 0.5 leaves 0.95 of a weight.
    """
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    config = OptimConfig(name="adamw", weight_decay=0.5)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    left = [parameter.flatten()[0].item() for parameter in model.parameters()]
    assert left == pytest.approx([0.95, 1.0, 1.0, 1.0])


def test_a_checkpoint_numbers_the_state_as_the_model_does() -> None:
    """Moments would go to other weights where groups differ, or under ZeRO."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    config = OptimConfig(name="adamw", weight_decay=0.1)
    optimizer = build_optimizer(model, config)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    optimizer.step()
    saved = optimizer_tensors(optimizer)
    for number in range(6):  # exp_avg after one step is 0.1 of the gradient
        moments = saved[f"{number}.exp_avg"]
        assert moments.flatten()[0].item() == pytest.approx(0.1 * (1 + number))
    other = build_optimizer(model, config)
    put_optimizer_tensors(saved, other)
    for number, parameter in enumerate(model.parameters()):
        moment = other.state[parameter]["exp_avg"].flatten()[0].item()
        assert moment == pytest.approx(0.1 * (1 + number))


def test_a_run_with_groups_goes_on_bit_for_bit_after_a_kill(
    tmp_path: Path, dataset: Path
) -> None:
    """A preempted fine-tuning would give another model."""
    whole = tiny_config(tmp_path / "whole", dataset, *WORDS)
    train.main(whole)
    words = tiny_config(tmp_path, dataset, *WORDS)
    job = start(tmp_path, words, fault="step=10,point=step,action=kill")
    assert job.wait() == [-9], job.output
    job = start(tmp_path, words)
    assert job.wait() == [0], job.output
    assert losses(tmp_path / "run") == losses(tmp_path / "whole" / "run")
    last = checkpoint_folder(tmp_path / "run", 12)
    before = checkpoint_folder(tmp_path / "whole" / "run", 12)
    for read in (lambda f: load_checkpoint(f).weights, _moments):
        expected, found = read(before), read(last)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    # the stem, at 0.5 ** 19 of the rate, has not moved, and the classifier has
    torch.manual_seed(0)
    checkpoint = load_checkpoint(last)
    fresh = build_from_config(checkpoint.model_config, 3).state_dict()
    stem, head = "features.0.0.weight", "classifier.1.weight"
    assert torch.allclose(checkpoint.weights[stem], fresh[stem], atol=1e-6)
    assert not torch.allclose(checkpoint.weights[head], fresh[head], atol=1e-2)


def _moments(folder: Path) -> dict[str, torch.Tensor]:
    return load_optimizer(load_checkpoint(folder))
