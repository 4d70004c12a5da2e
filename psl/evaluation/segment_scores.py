"""Segment scores of a model: its frame probabilities, pooled as they come.

Owns the scores of all ranks; segments.py has the segments and the measures, and
score_file.py the file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from psl.data.batch import to_device
from psl.distributed import collectives
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.segments import NOT_FINITE, Segments
from psl.evaluation.to_main import ToMain

Bounds = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Samples of a clip -> first and past-the-last sample [T] of each of its frames."""


@contextlib.contextmanager
def segments_on_disk(
    segments: Segments | None,
    columns: Sequence[int],
    bounds: Bounds,
    accelerator: Accelerator,
    *,
    folder: str | Path,
    batch_size: int,
) -> Iterator[SegmentScores | None]:
    """Scores of the segments, in a file in ``folder`` or above it. Collective.

    None without ``segments``. The file, which is rank 0's, is gone after the block.
    Class ``columns[c]`` of the frame probabilities is class c of ``segments``; a batch
    has at most ``batch_size`` clips. Raises OSError on all ranks if the disk cannot
    hold the scores.
    """
    if segments is None:
        yield None
        return
    files: list[ScoreFile] = []
    num_segments, num_classes = segments.truth.shape
    with contextlib.ExitStack() as stack:

        def create() -> None:
            file = ScoreFile(
                folder,
                num_clips=num_segments,
                num_classes=num_classes,
                row="segment",
            )
            files.append(stack.enter_context(file))

        collectives.from_main(create)
        of_a_clip = int(np.diff(segments.first).max(initial=1))
        sender = ToMain(
            accelerator,
            files,
            num_classes=num_classes,
            rows_of_a_batch=batch_size * of_a_clip,
        )
        yield SegmentScores(segments, columns, bounds, sender, files)


class SegmentScores:
    """Frame probabilities of a rank's clips, pooled to segments as they come.

    A segment's score is the mean of the frames in it, weighted by the time that each
    has in common with it.
    """

    def __init__(
        self,
        segments: Segments,
        columns: Sequence[int],
        bounds: Bounds,
        sender: ToMain,
        files: Sequence[ScoreFile],
    ) -> None:
        """What segments_on_disk has; ``files`` is empty on other ranks than 0."""
        self._segments, self._columns, self._bounds = segments, list(columns), bounds
        self._sender, self._files = sender, files
        self._weights = functools.lru_cache(maxsize=64)(self._compute_weights)

    def add(self, rows: np.ndarray, frame_probs: Tensor) -> None:
        """Pool frame_probs [B, T, C'] of clips ``rows`` [B], all of one length.

        Collective: every rank must call this equally often, with no clips if need be.
        """
        found = np.searchsorted(self._segments.rows, rows)
        found = np.minimum(found, len(self._segments.rows) - 1)
        known = np.flatnonzero(self._segments.rows[found] == rows)
        if not len(known):
            nothing = frame_probs.new_zeros(0, len(self._columns))
            self._sender.add(np.zeros(0, np.int64), nothing)
            return
        length = int(self._segments.num_samples[found[known[0]]])
        weights = self._weights(length, frame_probs.device).to(frame_probs.dtype)
        frames = frame_probs[to_device(known, frame_probs.device)]
        pooled = torch.einsum("ts,btc->bsc", weights, frames[:, : len(weights)])
        num_segments = weights.shape[1]
        places = self._segments.first[found[known], None] + np.arange(num_segments)
        scores = pooled.flatten(0, 1)[:, self._columns]
        self._sender.add(places.reshape(-1), scores)

    def _compute_weights(self, num_samples: int, device: torch.device) -> Tensor:
        starts, stops = self._bounds(num_samples)
        return to_device(self._segments.shares(num_samples, starts, stops), device)

    def sealed(self) -> ScoreFile | None:
        """The scores of all segments; None on other ranks than 0. Collective.

        Raises JobError unless every segment was scored exactly once, and ValueError if
        a score is not finite, on all ranks.
        """
        self._sender.flush()
        collectives.from_main(self._seal)
        return self._files[0] if self._files else None

    def _seal(self) -> None:
        self._files[0].seal()
        if not self._files[0].is_finite.all():
            raise ValueError(NOT_FINITE)
