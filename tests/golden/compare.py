"""Golden values against those of now: to the bit, or as near as another CPU may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FIRST_LOSS, LATER_LOSS, WEIGHTS_NORM = 1e-5, 1e-3, 2e-5
LABEL = 5e-4
"""Tolerances on another CPU; the first three are relative.

Measured on 2026-11-28 on an AMD EPYC with AVX-512, with and without the pinned
instructions of recipe.py: the first loss, which is a forward pass only, differed by at
most 3.3e-6, later ones by 4e-4, since Adam amplifies gradients that are only rounding,
the norm of the weights by 3e-6, and labels by 6.1e-5, one step of float16. That is more
than another CPU should change with the instructions pinned: on a Nehalem emulated by
QEMU, losses differed by at most 4e-6, and labels and FLAC files not at all.
"""


def differences(golden: Any, found: Any, where: str = "") -> list[str]:
    """The leaves that are not equal, each with its path and both values."""
    if isinstance(golden, list) and isinstance(found, list):
        golden, found = dict(enumerate(golden, 1)), dict(enumerate(found, 1))
    if isinstance(golden, dict) and isinstance(found, dict):
        inner = (
            differences(golden.get(key), found.get(key), f"{where}/{key}")
            for key in [*golden, *(key for key in found if key not in golden)]
        )
        return [line for lines in inner for line in lines]
    return [] if golden == found else [f"{where}: {found}, expected {golden}"]


def far_differences(golden: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The same for values of two CPUs, where only arithmetic may round differently.

    Packed files must be equal. Not compared: valid_mAP, which jumps when two scores
    that are nearly equal change places, and digests of weights and labels.
    """
    exact = ("wav", "flac")
    lines = differences(
        {name: golden["files"][name] for name in exact},
        {name: found["files"][name] for name in exact},
        "files",
    )
    lines += differences(golden["pcm"], found["pcm"], "pcm")
    lines += _far_labels(golden["labels"], found["labels"])
    for name in golden["runs"]:
        lines += _far_run(golden["runs"][name], found["runs"][name], f"runs/{name}")
    return lines


def _far_labels(golden: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    if list(golden) != list(found):
        yield f"labels: of clips {list(found)}, expected {list(golden)}"
        return
    for key, values in golden.items():
        pairs = zip(values, found[key], strict=True)
        if max(abs(a - b) for a, b in pairs) > LABEL:
            yield f"labels/{key}: {found[key]}, expected {values} within {LABEL}"


def _far_run(
    golden: dict[str, Any], found: dict[str, Any], where: str
) -> Iterator[str]:
    pairs = zip(golden["losses"], found["losses"], strict=True)
    for step, (expected, value) in enumerate(pairs, 1):
        tolerance = FIRST_LOSS if step == 1 else LATER_LOSS
        yield from _far(expected, value, tolerance, f"{where}/losses/{step}")
    names = golden["weights_norm"], found["weights_norm"]
    yield from _far(*names, WEIGHTS_NORM, f"{where}/weights_norm")


def _far(golden: str, found: str, tolerance: float, where: str) -> Iterator[str]:
    """Whether two numbers, as hex, differ by more than ``tolerance``, relative."""
    expected, value = float.fromhex(golden), float.fromhex(found)
    if not abs(value - expected) <= tolerance * abs(expected):  # NaN is far, too
        yield f"{where}: {value!r}, expected {expected!r} within {tolerance}, relative"
