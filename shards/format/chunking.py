"""The only rule for cutting a clip into chunks.

Owns the rule: chunks start every hop; what is left after the last whole chunk is a
further chunk if it is at least half a chunk long, and a clip always has at least one.
So less than half a chunk is lost, at the end, also where chunks overlap; there the
further chunk begins a hop after the last whole one, as all do. A chunk that is not full
is padded with zeros, which do not count in its score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Chunking:
    """Fixed windows of a clip, in samples."""

    chunk_samples: int
    hop_samples: int

    def __post_init__(self) -> None:
        if not 1 <= self.hop_samples <= self.chunk_samples:
            raise ValueError(
                f"a hop of {self.hop_samples} and chunks of {self.chunk_samples} "
                "samples; expected a hop of one sample at least and a chunk at most, "
                "or audio between chunks would be lost"
            )

    @staticmethod
    def from_seconds(
        chunk_seconds: float, sample_rate: int, hop_seconds: float | None = None
    ) -> Chunking:
        """Chunks every ``hop_seconds``; None for adjacent ones (paper, section 2)."""
        samples = round(chunk_seconds * sample_rate)
        if samples < 1:
            raise ValueError(f"chunk_seconds = {chunk_seconds}; expected more than 0")
        hop = samples if hop_seconds is None else round(hop_seconds * sample_rate)
        return Chunking(samples, hop)

    def num_chunks(self, num_samples: np.ndarray) -> np.ndarray:
        """Chunks [R] int64 of clips of ``num_samples`` [R] samples each."""
        num_samples = np.asarray(num_samples, np.int64)
        whole = np.maximum(num_samples - self.chunk_samples, -1) // self.hop_samples + 1
        covered = (whole - 1) * self.hop_samples + self.chunk_samples
        rest = np.where(whole > 0, num_samples - covered, num_samples)
        return np.maximum(whole + (2 * rest >= self.chunk_samples), 1)

    def bounds(
        self, chunks: npt.ArrayLike, num_samples: npt.ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """First and past-the-last sample of chunks number ``chunks`` of clips.

        ``num_samples`` are those of each chunk's clip; any shape, or single numbers.
        """
        starts = np.asarray(chunks) * self.hop_samples
        return starts, np.minimum(starts + self.chunk_samples, num_samples)
