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
        self._bad = torch.zeros(0)

    @property
    def identity(self) -> str:
        """Equal for two runs exactly if their targets are."""
        return f"online:{self._teacher.identity}"

    @property
    def weight_bytes(self) -> int:
        """Of all members."""
        return sum(p.nbytes for p in self._teacher.model.parameters())

    def prepare(self, batch: Batch) -> Batch:
        """The batch with what the teacher computes from it on the host.

        For loader threads. Its chunks must not change until ``teach``.
        """
        if not self._teacher.model.has_features:
            return batch
        prepared = self._teacher.model.prepare(batch.waveform, batch.num_samples)
        return dataclasses.replace(batch, prepared=prepared)

    def teach(self, batch: Batch) -> Batch:
        """The batch, its weak targets mixed with the teacher's probabilities."""
        with torch.no_grad():
            probs = self._teacher.model(
                batch.waveform, batch.num_samples, batch.prepared
            )
            # as labels are stored: a run turns a difference of 3e-6 in its first
            # loss into 3 % after three steps of Adam (tiny test model, 2026-11-23)
            pseudo = probs.half().float()
            targets = mix_targets(pseudo, batch.targets, self._alpha)
        # read only if the step fails: reading it here would make the host wait
        self._bad = probs.isnan().any(dim=1)
        return dataclasses.replace(batch, targets=targets, prepared=None)

    @property
    def bad_chunks(self) -> Tensor:
        """[B] whether a chunk of the last batch got values outside [0, 1]."""
        return self._bad

    def blame(self) -> str:
        """The teacher's name, or that of the members that gave such values.

        Collective: on any rank.
        """
        num_bad = self._teacher.model.num_bad()
        return self._teacher.blame(collectives.sum_over_ranks(num_bad))
