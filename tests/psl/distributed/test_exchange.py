"""How gradients are cut into all-reduces, and when each leaves, in one process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from psl.distributed.exchange import Exchange, cut_into_buckets
from tests.fake_group import FakeGroup

WEIGHT_MB = 16 * 4 / 1e6
"""The size of a 4 x 4 weight."""


class Layers(nn.Module):
    """Square weights, by name in the order of ``names``, used in that of ``use``."""

    def __init__(self, names: str, use: str) -> None:
        super().__init__()
        self.use = use
        self.weights = nn.ParameterDict({n: nn.Parameter(torch.eye(4)) for n in names})

    def forward(self, values: Tensor) -> Tensor:
        """[] the mean of what is left of [B, 4] values."""
        for name in self.use:
            values = values @ self.weights[name]
        return values.mean()


def backward(model: Layers, exchange: Exchange, beside: list[Tensor]) -> None:
    """The last part of a step, up to the means."""
    exchange.expect_last_part()
    model(torch.arange(8.0).view(2, 4)).backward()
    exchange.pack(beside)
    exchange.reduce()
    exchange.unpack(beside)


def note_gradients(model: Layers, group: FakeGroup) -> None:
    """Have ``group`` note when a gradient is known."""
    for name, weight in model.weights.items():
        note = f"gradient of {name}"
        weight.register_hook(lambda _, note=note: group.events.append(note))


def test_buckets_are_cut_from_the_last_parameter_to_the_first() -> None:
    """Nothing would leave before the backward pass is over."""
    sizes = [2, 3, 50, 1, 4, 5]
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    buckets = cut_into_buckets(parameters, 10 * 4 / 1e6)
    assert [[p.numel() for p in bucket] for bucket in buckets] == [
        [5, 4, 1],
        [50],
        [3, 2],
    ]


def test_buckets_leave_before_the_backward_pass_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network would idle while the GPUs compute, and they while it works."""
    group, model = FakeGroup(monkeypatch), Layers("abc", use="abc")
    note_gradients(model, group)
    exchange = Exchange(model.parameters(), bucket_mb=WEIGHT_MB)
    for _ in range(2):
        group.events.clear()
        backward(model, exchange, [torch.ones(3), torch.tensor(2.0)])
        assert group.events == [
            "gradient of c",
            "16 leave",
            "gradient of b",
            "16 leave",
            "gradient of a",
            "20 leave",
            "waited for 16",
            "waited for 16",
            "waited for 20",
        ]


def test_a_bucket_waits_for_the_ones_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks whose gradients come in another order would add up different buckets."""
    group, model = FakeGroup(monkeypatch), Layers("abc", use="acb")
    note_gradients(model, group)
    exchange = Exchange(model.parameters(), bucket_mb=WEIGHT_MB)
    backward(model, exchange, [])
    assert group.events[:5] == [
        "gradient of b",
        "gradient of c",
        "16 leave",
        "16 leave",
        "gradient of a",
    ]


def test_nothing_leaves_in_the_parts_before_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half a gradient would be shared, or all of it twice."""
    group, model = FakeGroup(monkeypatch), Layers("ab", use="ab")
    exchange = Exchange(model.parameters(), bucket_mb=WEIGHT_MB)
    model(torch.arange(8.0).view(2, 4)).backward()
    assert group.events == []
    backward(model, exchange, [])
    assert [event for event in group.events if "leave" in event] == ["16 leave"] * 2
    # the mean of x a b over 8 values, a and b the identity: rows of column sums / 8
    expected = 2 * torch.tensor([4.0, 6.0, 8.0, 10.0]).view(4, 1).expand(4, 4) / 8
    for weight in model.weights.values():
        assert torch.equal(weight.grad, expected)


@pytest.mark.parametrize("bucket_mb", [None, WEIGHT_MB])
def test_a_parameter_without_gradient_in_a_step_counts_as_zeros(
    monkeypatch: pytest.MonkeyPatch, bucket_mb: float | None
) -> None:
    """A rank that skips a layer would send less than others, which wait for it."""
    group, model = FakeGroup(monkeypatch), Layers("abc", use="ac")
    exchange = Exchange(model.parameters(), bucket_mb=bucket_mb)
    beside = [torch.ones(2)]
    sent = ["50 leave"] if bucket_mb is None else ["16 leave", "16 leave", "18 leave"]
    for use, is_used in (("ac", False), ("abc", True), ("ac", False)):
        group.events.clear()
        model.zero_grad()
        model.use = use
        backward(model, exchange, beside)
        assert [event for event in group.events if "leave" in event] == sent
        gradients = [weight.grad for weight in model.weights.values()]
        assert gradients[1].any() == is_used, use
        assert gradients[0].any() and gradients[2].any()
    assert beside[0].tolist() == [1.0, 1.0]


def test_a_frozen_parameter_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning a head would share the whole network, or fail."""
    group, model = FakeGroup(monkeypatch), Layers("abc", use="abc")
    model.weights["b"].requires_grad_(False)
    exchange = Exchange(model.parameters(), bucket_mb=WEIGHT_MB)
    backward(model, exchange, [])
    assert [event for event in group.events if "leave" in event] == ["16 leave"] * 2
    assert model.weights["b"].grad is None


def test_one_process_sends_nothing() -> None:
    """A config for eight GPUs would cost or fail on one."""
    model = Layers("abc", use="abc")
    exchange = Exchange(model.parameters(), bucket_mb=WEIGHT_MB)
    exchange.expect_last_part()
    model(torch.ones(2, 4)).backward()  # no group: an all-reduce would raise
    assert all(weight.grad is not None for weight in model.weights.values())
