"""The steps of tools/gpu/check.py: their order, their time, and what each needs.

What they do is in tools/gpu/chain.py and tools/gpu/speeds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.gpu import chain, speeds
from tools.gpu.runner import Check


@dataclass(frozen=True)
class Step:
    """One thing to try."""

    name: str
    run: Callable[[Check], dict[str, Any]]
    """Gives figures; raises Skipped or StepFailed."""
    seconds: float
    """Most that it may take; what runs longer is ended, and has failed."""
    needs: tuple[str, ...] = ()


STEPS = (
    Step("pack", chain.pack, 60),
    Step("train", chain.train, 120, ("pack",)),
    Step("label", chain.label, 60, ("train",)),
    Step("student", chain.student, 90, ("label",)),
    Step("evaluate", chain.evaluate, 60, ("student",)),
    Step("cpu", chain.cpu, 150, ("train",)),
    Step("bf16", chain.bf16, 60, ("train",)),
    Step("ranks", chain.ranks, 90, ("train",)),
    Step("resume", chain.resume, 180, ("train",)),
    Step("speed_data", speeds.speed_data, 60),
    Step("bare", speeds.bare, 150),
    Step("graph_losses", chain.graph_losses, 60, ("train",)),
    Step("graph", speeds.graph, 90, ("speed_data",)),
    Step("product", speeds.product, 90, ("speed_data",)),
    Step("train_speed", speeds.train_speed, 120, ("speed_data",)),
    Step("fed", speeds.fed, 120, ("speed_data",)),
    Step("label_speed", speeds.label_speed, 90, ("speed_data", "train")),
    Step("published", speeds.published, 90),
    Step("bitwise", chain.bitwise, 120, ("train",)),
    Step("arithmetic", speeds.deterministic_speed, 90),
    Step("compile_speed", speeds.compile_speed, 240),
    Step("compiled", chain.compiled, 240, ("train",)),
    Step("compiled_bf16", chain.compiled_bf16, 240, ("train",)),
    Step("deepspeed", chain.deepspeed, 240, ("pack",)),
)
"""In the order they run: what matters most first, in case time runs out."""


def with_needs(names: Sequence[str] | None) -> list[Step]:
    """The steps of these names and those they need, in order; all for None."""
    wanted = {step.name for step in STEPS} if names is None else set(names)
    for step in reversed(STEPS):
        if step.name in wanted:
            wanted.update(step.needs)
    return [step for step in STEPS if step.name in wanted]
