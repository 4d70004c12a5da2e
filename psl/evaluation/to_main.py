"""Scores of all ranks on their way to the file, which rank 0 has.

Owns when they are sent, and how many at a time; score_file.py has the file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from psl.data.batch import to_device
from psl.distributed import collectives
from psl.evaluation.score_file import ScoreFile

_SENT_ROWS = 4096
"""That ranks send to rank 0 together, about."""


class ToMain:
    """Rows of scores of this rank, sent to rank 0 every few batches. Collective."""

    def __init__(
        self,
        accelerator: Accelerator,
        files: Sequence[ScoreFile],
        *,
        num_classes: int,
        rows_of_a_batch: int,
    ) -> None:
        """``files`` is empty on other ranks; a batch has ``rows_of_a_batch`` at most.

        Both numbers must be the same on all ranks.
        """
        self._files, self._device = files, accelerator.device
        self._at_a_time = max(1, _SENT_ROWS // accelerator.num_processes)
        self._batches = max(1, self._at_a_time // rows_of_a_batch)
        self._nothing = torch.zeros(0, num_classes, device=self._device)
        self._places: list[np.ndarray] = []
        self._scores: list[Tensor] = []

    def add(self, places: np.ndarray, scores: Tensor) -> None:
        """Take scores [N, C] of the rows ``places`` [N] of the file, or of none.

        All ranks must call it equally often.
        """
        self._places.append(places)
        self._scores.append(scores.float())
        if len(self._places) == self._batches:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        places = np.concatenate([*self._places, np.zeros(0, np.int64)])
        scores = torch.cat([*self._scores, self._nothing])
        self._places, self._scores = [], []
        most = collectives.largest_over_ranks(len(places))
        for start in range(0, most, self._at_a_time):
            stop = min(start + self._at_a_time, most)
            self._send(places[start:stop], scores[start:stop], stop - start)

    def _send(self, places: np.ndarray, scores: Tensor, number: int) -> None:
        """Write these rows of all ranks, of each at most ``number``."""
        where = torch.full((number,), -1, device=self._device)
        where[: len(places)] = to_device(places, self._device)
        what = torch.zeros(number, scores.shape[1], device=self._device)
        what[: len(places)] = scores
        all_places = collectives.gather_on_main(where)
        all_scores = collectives.gather_on_main(what)
        collectives.from_main(lambda: self._write(all_places, all_scores))

    def _write(self, places: Sequence[Tensor], scores: Sequence[Tensor]) -> None:
        for where, what in zip(places, scores, strict=True):
            known = where.cpu().numpy()
            number = int((known >= 0).sum())
            self._files[0].write(known[:number], what[:number].cpu().numpy())
