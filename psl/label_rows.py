"""Clips -> the label rows of one shard.

Owns batching of chunks through the teacher. Which clips, and where the rows go, is
decided by its caller (psl/label.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from psl.batch_memory import BatchMemory
from psl.chunking import Chunking
from psl.loader import fetch_ahead, read_chunks, to_device, to_waveform
from shards.cli import JobError
from shards.reader import MemberReader
from shards.schema import encode_labels
from shards.writer import Row

if TYPE_CHECKING:
    from psl.label import LabelConfig


def label_rows(
    model: nn.Module,
    reader: MemberReader,
    rows: np.ndarray,
    chunking: Chunking,
    config: LabelConfig,
) -> Iterator[Row]:
    """The label rows of clips ``rows``, in their order.

    Batches fill across clips; ``model`` gives one probability vector per chunk. Raises
    JobError naming the clip for which it gives no probabilities.
    """
    if not len(rows):
        return
    num_chunks = chunking.num_chunks(reader.index.table.count[rows])
    all_rows = np.repeat(rows, num_chunks)
    all_chunks = np.concatenate([np.arange(n) for n in num_chunks])
    starts = range(0, len(all_rows), config.batch_size)
    memory = BatchMemory()

    def fetch(start: int) -> tuple[np.ndarray, np.ndarray]:
        batch = slice(start, start + config.batch_size)
        rows, chunks = all_rows[batch], all_chunks[batch]
        return read_chunks(reader, rows, chunks, chunking, memory)

    device = next(model.parameters()).device
    probs = []
    with torch.inference_mode():
        for pcm, lengths in fetch_ahead(fetch, starts, config.loader):
            waveform = to_waveform(to_device(pcm, device))
            clip_probs, _ = model(waveform, to_device(lengths, device))
            probs.append(clip_probs.cpu().numpy())
    per_clip = np.split(np.concatenate(probs), np.cumsum(num_chunks)[:-1])
    for row, clip_probs in zip(rows, per_clip, strict=True):
        try:
            data = encode_labels(clip_probs)
        except ValueError as error:
            place = reader.index.place(int(row))
            raise JobError(f"{place}: from teacher {config.teacher}: {error}") from None
        key = reader.index.key(int(row))
        yield Row(key=key, suffix="npy", data=data, count=len(clip_probs))
