"""The trainer's order for a training loop of your own, and where it stands.

Owns the state that is saved and loaded, and the sampler for DataLoader's worker
processes. psl/data/torch_datasets.py has the examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.utils.data import Sampler

from shards.order.plan import Plan


class Visit(NamedTuple):
    """A chunk at a moment of training, which decides its view and augmentation."""

    row: int
    chunk: int
    epoch: int
    """From 0."""
    step: int
    """Optimizer step of the run, from 1."""


@dataclass(frozen=True)
class Order:
    """Which chunks each step of training takes, and the share of one process."""

    plan: Plan
    fingerprint: str
    """Hash of all that decides the examples and their order; not of the processes."""
    rank: int
    world_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of every epoch."""
        return self.plan.num_steps

    def state_dict(self, steps_done: int) -> dict[str, Any]:
        """What ``load_state_dict`` takes to continue after ``steps_done`` steps.

        The same for all processes, and for any number of them.
        """
        return {"steps_done": steps_done, "order": self.fingerprint}

    def steps_done(self, state: Mapping[str, Any]) -> int:
        """The steps done in ``state``; ValueError if it is of another order."""
        if state.get("order") != self.fingerprint:
            raise ValueError(
                f"state_dict is of order {str(state.get('order'))[:12]}, but this is "
                f"{self.fingerprint[:12]}: other data, labels, seed, batch size or "
                "augmentation; open them as when the state was saved"
            )
        return int(state["steps_done"])


class ChunkSampler(Sampler[list[Visit]]):
    """The visits of each step, for a DataLoader over a ChunkDataset with any workers.

    Each iteration is an epoch, the next one each time.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._steps_done = 0

    def __len__(self) -> int:
        return self.order.steps_per_epoch

    def __iter__(self) -> Iterator[list[Visit]]:
        order, first = self.order, self._steps_done + 1
        epoch, start = divmod(self._steps_done, order.steps_per_epoch)
        steps = order.plan.steps(
            epoch, start=start, rank=order.rank, world_size=order.world_size
        )
        for step, (rows, chunks) in enumerate(steps, start=first):
            self._steps_done = step
            pairs = zip(rows.tolist(), chunks.tolist(), strict=True)
            yield [Visit(row, chunk, epoch, step) for row, chunk in pairs]

    def state_dict(self, steps_done: int) -> dict[str, Any]:
        """The state after ``steps_done`` steps of training, which the caller counts.

        The sampler cannot know: a DataLoader takes batches from it in advance.
        """
        return self.order.state_dict(steps_done)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; ValueError if it is of another order."""
        self._steps_done = self.order.steps_done(state)
