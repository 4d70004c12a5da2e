"""Chunks -> what a Hugging Face model takes of them, on the host.

Owns the grouping: each chunk's features are made from it alone, at its own length;
chunks whose features have the same shape go through the model together, so that no
chunk is padded for the sake of another. And threads: each has its own extractor.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psl.data.batch import Group

MIN_SECONDS = 0.1
"""Shorter chunks are padded with zeros to this; a window of features has 0.025 s."""


class ExtractorFeatures:
    """The features that a transformers feature extractor makes of each chunk."""

    def __init__(self, extractor: Any) -> None:
        self._extractor, self._of_thread = extractor, threading.local()

    def __call__(self, waveform: Tensor, lengths: Tensor) -> list[Group]:
        """A group for each shape of features of waveforms [B, N] with lengths [B]."""
        found: dict[tuple[Any, ...], list[tuple[int, dict[str, Tensor]]]] = {}
        pcm, all_lengths = waveform.numpy(), lengths.tolist()
        for place, length in enumerate(all_lengths):
            features = self._of_chunk(pcm[place, :length])
            shapes = tuple((name, tuple(x.shape)) for name, x in features.items())
            found.setdefault(shapes, []).append((place, features))
        return [
            Group(
                positions=torch.tensor([place for place, _ in group]),
                inputs={
                    name: torch.cat([features[name] for _, features in group])
                    for name in group[0][1]
                },
                whole=any(all_lengths[place] == pcm.shape[1] for place, _ in group),
            )
            for group in found.values()
        ]

    def _of_chunk(self, chunk: np.ndarray) -> dict[str, Tensor]:
        """Tensors [1, ...] by name, of a chunk [N]."""
        extractor = getattr(self._of_thread, "extractor", None)
        if extractor is None:  # nobody promises that one may be shared
            extractor = self._of_thread.extractor = copy.deepcopy(self._extractor)
        rate = extractor.sampling_rate
        # a copy, as extractors may write to what they get
        samples = np.zeros(max(len(chunk), round(MIN_SECONDS * rate)), np.float32)
        samples[: len(chunk)] = chunk
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return dict(extractor(samples, sampling_rate=rate, return_tensors="pt"))
