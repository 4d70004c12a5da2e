"""Mixtures of two examples of a batch (mixup: Zhang et al. 2018, arXiv 1710.09412).

Owns who is mixed with whom, how much of each, and what a mixture is: of waveforms, as
sounds add up in the air, rounded to int16 as all examples are. Draws are a pure
function of (run seed, step, place in the global batch); only the partner is limited to
the rank's own share of the global batch, so it is another one with another number of
processes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from psl.data.batch import Batch, to_device
from psl.data.config import TrainAugmentConfig

_MIXUP = 0x6D6978  # what the random numbers are for


@dataclass(frozen=True)
class Mixup:
    """Mixes the batches of one rank."""

    alpha: float
    """Of Beta(alpha, alpha), from which the share of an example is drawn."""
    probability: float
    """That an example is mixed at all."""
    seed: int
    global_batch_size: int
    places: slice
    """Of the rank's share in the global batch."""

    def __post_init__(self) -> None:
        if self.places.stop - self.places.start < 2:
            raise ValueError(
                "augment.mixup_alpha mixes the examples of a process with each other, "
                f"and each has 1 of global_batch_size {self.global_batch_size}; raise "
                "global_batch_size, use fewer processes, or leave mixup out"
            )

    @staticmethod
    def of(
        config: TrainAugmentConfig, *, seed: int, global_batch_size: int, places: slice
    ) -> Mixup | None:
        """None if nothing is to be mixed; ValueError if there is nothing to mix."""
        if config.mixup_alpha is None:
            return None
        probability = config.mixup_probability
        return Mixup(
            alpha=config.mixup_alpha,
            probability=1.0 if probability is None else probability,
            seed=seed,
            global_batch_size=global_batch_size,
            places=places,
        )

    def mix(self, batch: Batch, step: int) -> Batch:
        """The batch of step ``step`` (from 1), mixed."""
        return mix(batch, *self.draw(step))

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Share of each example in its mixture [b] float32, and its partner's place [b]
        in the rank's batch.

        The partners form one cycle, so nobody is mixed with itself.
        """
        generator, size = self._generator(step), self.global_batch_size
        shares = generator.beta(self.alpha, self.alpha, size)
        shares[generator.random(size) >= self.probability] = 1.0
        cycle = np.argsort(generator.random(size)[self.places])
        partners = np.empty_like(cycle)
        partners[cycle] = np.roll(cycle, -1)
        return shares[self.places].astype(np.float32), partners

    def _generator(self, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, step, _MIXUP))


def mix(batch: Batch, shares: np.ndarray, partners: np.ndarray) -> Batch:
    """``share * example + (1 - share) * partner``, of samples and of targets.

    ``shares`` [B] float32 and ``partners`` [B] int64. A mixture is as long as the
    longer of the two; a share of 1 leaves an example as it is.
    """
    device = batch.pcm.device
    share, partner = to_device(shares, device), to_device(partners, device)
    both = torch.maximum(batch.num_samples, batch.num_samples[partner])
    column = share.unsqueeze(1)
    pcm = batch.pcm.float().lerp(batch.pcm[partner].float(), 1.0 - column)
    return dataclasses.replace(
        batch,
        pcm=pcm.round_().to(torch.int16),
        num_samples=torch.where(share < 1.0, both, batch.num_samples),
        targets=batch.targets.lerp(batch.targets[partner], 1.0 - column),
    )
