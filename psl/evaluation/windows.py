"""A model that hears a clip in windows, each by itself, and gives the mean.

Owns how a batch of clips is cut for a model that learned shorter examples. Where a
window begins and ends is Chunking's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psl.evaluation.frames import covering_bounds
from shards.format.chunking import Chunking


class WindowedModel(nn.Module):
    """A model [B, N] -> clip_probs [B, C], asked about windows of N samples.

    Each window is scored as a chunk is in labelling: padded with zeros, which do not
    count.
    """

    def __init__(
        self,
        model: nn.Module,
        chunking: Chunking,
        *,
        shortest_samples: int,
        windows_at_a_time: int,
    ) -> None:
        """``shortest_samples``: what shorter windows are padded to."""
        super().__init__()
        self._model, self.chunking = model, chunking
        self._length = max(chunking.chunk_samples, shortest_samples)
        self._at_a_time = windows_at_a_time

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over its windows [B, C], and each window's clip_probs [B, K, C].

        ``num_samples`` [B] are the samples before the padding, the same for all clips
        of the batch.
        """
        length = int(num_samples[0])
        assert (num_samples == length).all(), "clips of one length, as score_clips has"
        (number,) = self.chunking.num_chunks(np.array([length]))
        starts, stops = self.chunking.bounds(np.arange(number), length)
        windows = waveform.new_zeros(len(waveform), len(starts), self._length)
        for k, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            windows[:, k, : stop - start] = waveform[:, start:stop]
        lengths = torch.as_tensor(stops - starts, device=waveform.device)
        lengths = lengths.repeat(len(waveform))
        probs = [
            self._model(part, part_lengths)[0]
            for part, part_lengths in zip(
                windows.flatten(0, 1).split(self._at_a_time),
                lengths.split(self._at_a_time),
                strict=True,
            )
        ]
        of_windows = torch.cat(probs).unflatten(0, windows.shape[:2])
        return of_windows.mean(dim=1), of_windows


def frame_bounds(model: nn.Module, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last sample [T] of each frame of a clip that counts.

    Frames follow each other every ``frame_samples``; the last one ends with the clip.
    ``model`` has frames as those of psl/models have, or is a WindowedModel.
    """
    if isinstance(model, WindowedModel):
        return covering_bounds(model.chunking, num_samples)
    framed: Any = model
    num_frames = int(framed.num_frames(torch.tensor([num_samples]))[0])
    starts = np.arange(num_frames) * framed.frame_samples
    starts = starts[: max(1, int((starts < num_samples).sum()))]
    return starts, np.append(starts[1:], num_samples)
