"""Today's losses, weights, shards and labels are those that were recorded."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.golden.compare import differences, far_differences
from tests.golden.machine import machine, packages
from tests.golden.record import GOLDEN, recompute

Compare = Callable[[dict[str, Any], dict[str, Any]], list[str]]

ADVICE = (
    "a refactoring must not change these; if the change is meant to, record them again "
    "(python -m tests.golden.record) and say why in the commit"
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What was recorded."""
    values: dict[str, Any] = json.loads(GOLDEN.read_text())
    return values


def comparison(golden: dict[str, Any]) -> Compare:
    """To the bit where the values were recorded; with tolerances on another machine.

    Fails for other versions of the packages, whose arithmetic may differ.
    """
    changed = differences(golden["packages"], packages(), "packages")
    if changed:
        pytest.fail(
            f"{GOLDEN.name} was recorded with other packages ({'; '.join(changed)}); "
            "install those of constraints.txt, or, to upgrade them, record again on a "
            "commit that passes with the old ones: python -m tests.golden.record",
            pytrace=False,
        )
    others = differences(golden["machine"], machine(), "machine")
    if not others:
        print(f"{GOLDEN.name}: compared to the bit")
        return differences
    warnings.warn(
        f"{GOLDEN.name}: packed files compared to the bit, losses and labels only with "
        f"tolerances, as this is not where they were recorded: {'; '.join(others)}",
        stacklevel=2,
    )
    return far_differences


def test_training_packing_and_labelling_give_what_was_recorded(
    golden: dict[str, Any],
) -> None:
    """A refactoring would change what users train, and nobody would notice."""
    compare = comparison(golden)
    lines = compare(golden, recompute())
    assert not lines, "\n".join([*lines, ADVICE])


def changed(values: dict[str, Any], *path: str | int, value: Any) -> dict[str, Any]:
    """A copy of ``values`` with another value at ``path``."""
    values = copy.deepcopy(values)
    inner: Any = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return values


def test_one_bit_of_a_loss_is_a_difference(golden: dict[str, Any]) -> None:
    """The proof that nothing changed would prove nothing."""
    loss = golden["runs"]["online"]["losses"][11]
    other = loss.replace("0p", "1p")
    assert other != loss
    found = changed(golden, "runs", "online", "losses", 11, value=other)
    assert differences(golden, golden) == []
    assert differences(golden, found) == [
        f"/runs/online/losses/12: {other}, expected {loss}"
    ]


def test_a_file_that_is_missing_or_new_is_a_difference(golden: dict[str, Any]) -> None:
    """A packing that leaves a file out, or one behind, would pass."""
    less, more = copy.deepcopy(golden), copy.deepcopy(golden)
    digest = less["files"]["labels"].pop("clips.npz")
    more["files"]["wav"]["left.tmp"] = "0"
    place = "/files/labels/clips.npz"
    assert differences(golden, less) == [f"{place}: None, expected {digest}"]
    assert differences(golden, more) == ["/files/wav/left.tmp: 0, expected None"]


@pytest.mark.parametrize("step, error", [(1, 2e-5), (2, 2e-3), (12, 2e-3)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_on_another_cpu_a_loss_may_differ_by_rounding_only(
    golden: dict[str, Any], step: int, error: float, sign: int
) -> None:
    """CI on another machine would pass anything, or nothing."""
    loss = float.fromhex(golden["runs"]["weak"]["losses"][step - 1])
    near, far = (
        changed(
            golden,
            *("runs", "weak", "losses", step - 1),
            value=(loss * (1 + sign * share * error)).hex(),
        )
        for share in (0.25, 1)
    )
    assert far_differences(golden, near) == []
    (line,) = far_differences(golden, far)
    assert line.startswith(f"runs/weak/losses/{step}: ")


@pytest.mark.parametrize(
    "path, value, where",
    [
        (("files", "flac", "000001.tar"), "0" * 64, "files/flac/000001.tar: "),
        (("pcm", "wav"), "0" * 64, "pcm/wav: "),
        (("labels", "clip3_0.npy"), [0.5] * 6, "labels/clip3_0.npy: "),
        (("runs", "weak", "weights_norm"), "nan", "runs/weak/weights_norm: "),
        (("runs", "weak", "losses", 4), "nan", "runs/weak/losses/5: "),
    ],
)
def test_on_another_cpu_all_else_is_compared_too(
    golden: dict[str, Any], path: tuple[str | int, ...], value: Any, where: str
) -> None:
    """Changed shards or labels would pass wherever the CPU is another."""
    (line,) = far_differences(golden, changed(golden, *path, value=value))
    assert line.startswith(where)


def test_other_packages_are_refused_and_another_cpu_is_told(
    golden: dict[str, Any],
) -> None:
    """An upgrade would look like a bug, or a loose comparison like an exact one."""
    with pytest.raises(pytest.fail.Exception, match="record again .*tests.golden"):
        comparison(changed(golden, "packages", "torch", value="1.0.0"))
    with pytest.warns(UserWarning, match="only with tolerances.*machine/cpu: "):
        elsewhere = comparison(changed(golden, "machine", "cpu", value="another"))
    assert elsewhere is far_differences
