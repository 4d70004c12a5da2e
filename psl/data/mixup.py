"""Mixtures of two examples of a batch (mixup: Zhang et al. 2018, arXiv 1710.09412).

Owns who is mixed with whom, how much of each, and what a mixture is: of waveforms, as
sounds add up in the air, rounded to int16 as all examples are. Draws are a pure
function of (run seed, step, position in the global batch). Only the partner is taken
from the rank's own share of the global batch, so it depends on the number of processes.
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
    """The weight of an example in its mixture is drawn from Beta(alpha, alpha)."""
    probability: float
    """The probability that an example is mixed at all."""
    seed: int
    global_batch_size: int
    share: slice
    """The rank's positions in the global batch."""

    def __post_init__(self) -> None:
        if self.share.stop - self.share.start < 2:
            raise ValueError(
                "augment.mixup_alpha mixes the examples of a process with each other, "
                f"and each has 1 of global_batch_size {self.global_batch_size}; raise "
                "global_batch_size, use fewer processes, or leave mixup out"
            )

    @staticmethod
    def from_config(
        config: TrainAugmentConfig, *, seed: int, global_batch_size: int, share: slice
    ) -> Mixup | None:
        """None without augment.mixup_alpha; ValueError if ``share`` is one example."""
        if config.mixup_alpha is None:
            return None
        probability = config.mixup_probability
        return Mixup(
            alpha=config.mixup_alpha,
            probability=1.0 if probability is None else probability,
            seed=seed,
            global_batch_size=global_batch_size,
            share=share,
        )

    def mix(self, batch: Batch, step: int) -> Batch:
        """The batch of step ``step`` (from 1), mixed."""
        return mix(batch, *self.draw(step))

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Weight of each example in its mixture [b] float32, and its partner [b].

        Partners are indices in the rank's batch. They form one cycle, so no example is
        mixed with itself.
        """
        generator, size = self._generator(step), self.global_batch_size
        weights = generator.beta(self.alpha, self.alpha, size)
        weights[generator.random(size) >= self.probability] = 1.0
        cycle = np.argsort(generator.random(size)[self.share])
        partners = np.empty_like(cycle)
        partners[cycle] = np.roll(cycle, -1)
        return weights[self.share].astype(np.float32), partners

    def _generator(self, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, step, _MIXUP))


def mix(batch: Batch, weights: np.ndarray, partners: np.ndarray) -> Batch:
    """``weight * example + (1 - weight) * partner``, of samples and of targets.

    ``weights`` [B] float32 and ``partners`` [B] int64. A mixture is as long as the
    longer of the two; a weight of 1 leaves an example as it is.
    """
    device = batch.pcm.device
    weight, partner = to_device(weights, device), to_device(partners, device)
    both = torch.maximum(batch.num_samples, batch.num_samples[partner])
    column = weight.unsqueeze(1)
    pcm = batch.pcm.float().lerp(batch.pcm[partner].float(), 1.0 - column)
    return dataclasses.replace(
        batch,
        pcm=pcm.round_().to(torch.int16),
        num_samples=torch.where(weight < 1.0, both, batch.num_samples),
        targets=batch.targets.lerp(batch.targets[partner], 1.0 - column),
    )
