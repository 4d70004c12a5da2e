"""All pseudo labels of a run on the device that trains, where a batch gathers its own.

Owns their memory and order. A batch then brings numbers of rows from the host, not
rows: those of 527 classes cost more of a Python thread than the audio of the chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psl.data.batch import to_device
from shards.dataset.reader import MemberReader

LARGEST_SHARE = 0.5
"""Of a GPU's free memory that labels may take; the rest is for training."""
_BLOCK = 4096
"""Views of clips whose labels go to the device together."""


@dataclass(frozen=True)
class DeviceLabels:
    """Labels of every chunk of every clip, dense."""

    table: Tensor
    """[labels, C] float16 in [0, 1], clip after clip, view after view."""
    starts: np.ndarray
    """[R] int64, the first label of each clip."""
    counts: np.ndarray
    """[R] int64, its chunks."""

    @staticmethod
    def read(labels: MemberReader, device: torch.device) -> DeviceLabels:
        """Read all labels, once.

        Raises ValueError if they do not fit, ShardError if one is damaged.
        """
        counts = labels.index.table.count.astype(np.int64)
        views = labels.form.views
        ends = np.cumsum(views * counts)
        shape = (int(ends[-1]), len(labels.index.classes))
        _check_room(2 * shape[0] * shape[1], device)
        table = torch.empty(shape, dtype=torch.float16, device=device)
        block: list[np.ndarray] = []
        for row in range(len(counts)):
            if counts[row]:
                block += [labels.labels(row, view) for view in range(views)]
            if block and (len(block) >= _BLOCK or row == len(counts) - 1):
                rows = np.concatenate(block)
                stop = int(ends[row])
                table[stop - len(rows) : stop].copy_(torch.from_numpy(rows))
                block = []
        return DeviceLabels(table, ends - views * counts, counts)

    def gather(self, rows: np.ndarray, chunks: np.ndarray, views: np.ndarray) -> Tensor:
        """Labels [B, C] float32 of chunk ``chunks[i]`` of view ``views[i]`` of rows."""
        places = self.starts[rows] + views * self.counts[rows] + chunks
        return self.table[to_device(places, self.table.device)].float()


def _check_room(num_bytes: int, device: torch.device) -> None:
    """ValueError if a GPU has not room for that much."""
    if device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(device)[0]
    if num_bytes > LARGEST_SHARE * free:
        raise ValueError(
            f"data.labels_on_device: the labels are {num_bytes / 1e9:.3g} GB, and "
            f"{device} has {free / 1e9:.3g} GB free, of which they may take "
            f"{100 * LARGEST_SHARE:.0f} %; set data.labels_on_device=false"
        )
