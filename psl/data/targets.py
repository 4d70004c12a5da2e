"""What the loss asks of a batch of chunks: pseudo labels, weak labels, corrections.

Owns how they become one target, and where they are read: in their shards, or from the
device that trains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psl.data.batch import mix_targets, to_device
from psl.data.batch_memory import BatchMemory
from psl.data.corrections import CorrectedLabels
from psl.data.device_labels import DeviceLabels
from shards.dataset.reader import MemberReader
from shards.format.index import Index


@dataclass(frozen=True)
class Targets:
    """Targets of the chunks of a run."""

    audio: Index
    """With the weak labels."""
    labels: MemberReader | None
    """Pseudo labels, if there are any."""
    alpha: float
    """Their weight against the weak ones."""
    corrected: CorrectedLabels | None
    """What people said of the clips; None for nothing."""
    on_device: DeviceLabels | None
    """The pseudo labels on the device that trains; None to read them from shards."""
    memory: BatchMemory
    """What pseudo labels from shards are written to."""

    def make(
        self,
        rows: np.ndarray,
        chunks: np.ndarray,
        views: np.ndarray,
        bounds: tuple[np.ndarray, np.ndarray],
        device: torch.device,
    ) -> Tensor:
        """[B, C] float32 in [0, 1] of chunks [B] of views [B] of clips ``rows`` [B].

        ``bounds`` are the first and past-the-last sample [B] of each in its clip.
        """
        if self.on_device is None:
            targets = self._on_host(rows, chunks, views, bounds)
            return self.memory.to_device(targets, device)
        pseudo = self.on_device.gather(rows, chunks, views)
        if self.alpha == 1:  # the weak labels would count for nothing
            return pseudo
        return mix_targets(pseudo, to_device(self._weak(rows), device), self.alpha)

    def _on_host(
        self,
        rows: np.ndarray,
        chunks: np.ndarray,
        views: np.ndarray,
        bounds: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        if self.labels is None:
            targets = self._weak(rows)
        else:
            labels = self.labels.chunk_labels(rows, chunks, views)
            targets = self.memory.take((len(rows), labels.shape[1]), np.float32)
            targets[:] = labels
            if self.alpha != 1:
                targets[:] = mix_targets(targets, self._weak(rows), self.alpha)
        if self.corrected is not None:
            self.corrected.apply(targets, rows, bounds)
        return targets

    def _weak(self, rows: np.ndarray) -> np.ndarray:
        """[B, C] float32 in {0, 1}."""
        return self.audio.table.weak_targets(rows, len(self.audio.classes))
