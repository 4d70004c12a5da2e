"""What a teacher hears of a clip for the label of one of its chunks.

Owns which samples that are: the chunk alone, the chunk within its context, or the chunk
made as long as what the teacher was trained on. Which chunk a label is for stays
shards/format/chunking.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shards.format.chunking import Chunking

if TYPE_CHECKING:
    from psl.data.batch_memory import BatchMemory

Fill = Literal["none", "repeat", "zeros"]
"""What makes a chunk longer for the teacher."""


@dataclass(frozen=True)
class Hearing:
    """The samples around a chunk, or instead of the silence after it."""

    context_samples: int | None = None
    """Heard of the clip, around the chunk; None for the chunk alone."""
    fill: Fill = "none"
    fill_samples: int | None = None
    """With fill, the length to which a chunk is filled."""

    def bounds(
        self, chunking: Chunking, chunks: np.ndarray, num_samples: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """First and past-the-last sample [B] int64 heard for ``chunks`` [B] of clips.

        The context has the chunk in its middle; where it would begin before the clip or
        end after it, it is moved into the clip, and a shorter clip is heard whole.
        ``num_samples`` [B] are those of each chunk's clip.
        """
        ends = np.asarray(num_samples, np.int64)
        starts, stops = chunking.bounds(chunks, ends)
        if self.context_samples is None:
            return starts, stops
        last = np.maximum(ends - self.context_samples, 0)
        starts = np.clip((starts + stops - self.context_samples) // 2, 0, last)
        return starts, np.minimum(starts + self.context_samples, ends)

    def width(self, chunking: Chunking, num_samples: np.ndarray) -> int:
        """Samples of each batch before filling; ``num_samples`` are those of all clips.

        One for the whole job, as a compiled teacher takes batches of one shape.
        """
        if self.context_samples is None:
            return chunking.chunk_samples
        longest = int(num_samples.max(initial=0))
        return max(chunking.chunk_samples, min(self.context_samples, longest))

    def filled(
        self, pcm: np.ndarray, lengths: np.ndarray, memory: BatchMemory
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chunks [B, N] int16 with lengths [B], filled: [B, fill_samples] and lengths.

        The teacher cannot tell what was filled in from the chunk: all of it counts.
        """
        if self.fill_samples is None:
            return pcm, lengths
        longer = memory.take((len(pcm), self.fill_samples))
        longer[:] = 0
        for line, chunk, length in zip(longer, pcm, lengths.tolist(), strict=True):
            if self.fill == "repeat" and length:
                line[:] = np.resize(chunk[:length], self.fill_samples)
            else:
                line[:length] = chunk[:length]
        return longer, np.full(len(pcm), self.fill_samples, np.int64)


CHUNK_ALONE = Hearing()
HEARING_FACTS = ("context_seconds", "fill", "fill_seconds")
"""What labels record, unless it is none."""


def hearing_of(
    *,
    chunk_seconds: float,
    context_seconds: float | None,
    fill: Fill,
    fill_seconds: float | None,
    views: int,
    sample_rate: int,
) -> Hearing:
    """The hearing that settings of psl.label ask for.

    Raises ValueError for those that contradict each other.
    """
    if (fill == "none") != (fill_seconds is None):
        raise ValueError(
            f"fill = {fill} with fill_seconds = {fill_seconds}; expected fill=repeat "
            "or fill=zeros with fill_seconds, the length the teacher was trained on"
        )
    if context_seconds is not None and fill != "none":
        raise ValueError(
            f"context_seconds = {context_seconds:g} with fill = {fill}: both make "
            "longer what the teacher hears; choose one"
        )
    if context_seconds is not None and views > 1:
        raise ValueError(
            f"context_seconds = {context_seconds:g} with views = {views}: a student "
            "hears the view of a chunk without its context; leave one out"
        )
    for name, seconds in (("context", context_seconds), ("fill", fill_seconds)):
        if seconds is not None and seconds < chunk_seconds:
            raise ValueError(
                f"{name}_seconds = {seconds:g} with chunk_seconds = {chunk_seconds:g}; "
                "expected at least the length of a chunk"
            )
    return Hearing(
        None if context_seconds is None else round(context_seconds * sample_rate),
        fill,
        None if fill_seconds is None else round(fill_seconds * sample_rate),
    )


def hearing_facts(
    context_seconds: float | None, fill: Fill, fill_seconds: float | None
) -> dict[str, Any]:
    """What labels record of a hearing that is not the chunk alone."""
    if context_seconds is not None:
        return {"context_seconds": context_seconds}
    return {} if fill == "none" else {"fill": fill, "fill_seconds": fill_seconds}
