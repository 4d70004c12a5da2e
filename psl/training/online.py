"""Targets by a teacher that looks along, instead of stored labels.

Owns how its probabilities become targets, and when the teacher looks: on the training
device, at the very chunks of the batch, before the step; never in a loader thread,
where it would share the device with the student. There, only what it computes on the
host is done. The teacher is no part of what is trained, wrapped or saved.
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
        """What says whether two runs have the same targets."""
        return f"online:{self._teacher.identity}"

    def prepare(self, batch: Batch) -> Batch:
        """The batch with what the teacher computes of it on the host.

        For loader threads. Its chunks must stay as they are until it is taught.
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
        # looked at only if the step fails: now, the host would wait for it
        self._bad = probs.isnan().any(dim=1)
        return dataclasses.replace(batch, targets=targets, prepared=None)

    @property
    def bad_chunks(self) -> Tensor:
        """[B] whether the teacher gave no probability for a chunk of the last batch."""
        return self._bad

    def blame(self) -> str:
        """The teacher's name, or that of the members that gave no probability.

        Collective: on any rank.
        """
        num_bad = self._teacher.model.num_bad()
        return self._teacher.blame(collectives.sum_over_ranks(num_bad))
