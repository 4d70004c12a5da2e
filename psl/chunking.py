"""The one place that cuts a clip into chunks.

Owns the rule: chunks start every hop; what is left after the last whole chunk is a
further chunk if it is at least half a chunk long, and a clip always has at least one.
A chunk that is not full is padded with zeros, which do not count in its score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.index import Index


@dataclass(frozen=True)
class Chunking:
    """Fixed windows of a clip, in samples."""

    chunk_samples: int
    hop_samples: int

    @staticmethod
    def of(chunk_seconds: float, sample_rate: int) -> Chunking:
        """Non-overlapping chunks, as in the paper (section 2)."""
        samples = round(chunk_seconds * sample_rate)
        if samples < 1:
            raise ValueError(f"chunk_seconds = {chunk_seconds}; expected more than 0")
        return Chunking(samples, samples)

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


def check_label_chunks(labels: Index, audio: Index, chunking: Chunking) -> None:
    """ValueError unless the label rows were cut by ``chunking``."""
    expected: dict[str, Any] = {
        "chunk_samples": chunking.chunk_samples,
        "hop_samples": chunking.hop_samples,
    }
    found = {name: labels.properties.get(name) for name in expected}
    if found != expected:
        raise ValueError(
            f"{labels.where}: labels are for {found}, but chunk_seconds asks for "
            f"{expected}; set chunk_seconds to the labels', or label again"
        )
    labelled = labels.table.count > 0  # the others, psl/unlabelled.py limits
    right = labels.table.count == chunking.num_chunks(audio.table.count)
    wrong = np.flatnonzero(labelled & ~right)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{labels.place(row)}: {labels.table.count[row]} chunks, expected "
            f"{chunking.num_chunks(audio.table.count[row : row + 1])[0]}; relabel it"
        )
