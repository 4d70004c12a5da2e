"""Targets computed by the teacher during training, instead of stored labels.

Owns how its probabilities become targets, and when it runs: on the training device, on
the chunks of the batch, before the step; never in a loader thread, where it would share
the device with the student. Loader threads only do what it computes on the host. The
teacher is not trained, prepared or saved.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from psl.data.batch import Batch, mix_targets
from psl.distributed import collectives
from psl.teachers.load import Teacher


class OnlineTeacher:
    """Gives batches their targets."""

    def __init__(self, teacher: Teacher, *, alpha: float) -> None:
        """``alpha`` is the weight of the probabilities against the weak labels."""
        self._teacher, self._alpha = teacher, alpha
        self._bad: dict[int, Tensor] = {}

    @property
    def identity(self) -> str:
        """Equal for two runs exactly if their targets are."""
        return f"online:{self._teacher.identity}"

    @property
    def weight_bytes(self) -> int:
        """Of all members."""
        return sum(p.nbytes for p in self._teacher.model.parameters())

    @property
    def prepares(self) -> bool:
        """Whether the teacher computes anything on the host."""
        return self._teacher.model.has_features

    def prepare(self, batch: Batch) -> Batch:
        """The batch, on the host, with what the teacher computes from it there.

        For loader threads. Its chunks must not change until ``teach``.
        """
        prepared = self._teacher.model.prepare(batch.waveform, batch.num_samples)
        return dataclasses.replace(batch, prepared=prepared)

    def teach(self, batch: Batch, step: int) -> Batch:
        """The batch of ``step``, the teacher's probabilities mixed into its targets."""
        with torch.no_grad():
            probs = self._teacher.model(
                batch.waveform, batch.num_samples, batch.prepared
            )
            # as labels are stored: a run turns a difference of 3e-6 in its first
            # loss into 3 % after three steps of Adam (tiny test model, 2026-11-23)
            pseudo = probs.half().float()
            targets = mix_targets(pseudo, batch.targets, self._alpha)
        # read only if the step fails: reading it here would make the host wait. The
        # failure of a step may be known only after the next one.
        self._bad = {n: bad for n, bad in self._bad.items() if n == step - 1}
        self._bad[step] = probs.isnan().any(dim=1)
        return dataclasses.replace(batch, targets=targets, prepared=None)

    def bad_chunks(self, step: int) -> Tensor:
        """[B] whether a chunk of ``step`` got values outside [0, 1].

        Of the last step and of the one before.
        """
        return self._bad[step]

    def blame(self) -> str:
        """The teacher's name, or that of the members that gave such values.

        Collective: on any rank.
        """
        num_bad = self._teacher.model.num_bad()
        return self._teacher.blame(collectives.sum_over_ranks(num_bad))
