"""A checkpoint opened for a dataset: in the audio's classes, and in windows if asked.

Owns what psl.evaluate and psl.events ask, and whether the two fit each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from psl.data.checks import check_rate
from psl.distributed import runtime
from psl.evaluation.scoring import MIN_SECONDS
from psl.evaluation.shared_classes import InClassesOfAudio, SharedClasses, share_classes
from psl.evaluation.windows import WindowedModel
from psl.weights.checkpoint import Checkpoint, check_checkpoint_fits
from shards.format.chunking import Chunking
from shards.format.index import Index


@dataclass(frozen=True)
class OpenedModel:
    """A model, ready to score the clips of one dataset."""

    model: nn.Module
    """[B, N] and lengths [B] -> probabilities in the audio's classes."""
    framed: nn.Module
    """Whose frames these are, for ``frame_bounds``."""
    shared: SharedClasses


def open_model(
    checkpoint: Checkpoint,
    index: Index,
    device: torch.device,
    *,
    classes: Literal["same", "shared"],
    window_seconds: float | None,
    hop_seconds: float | None,
    batch_size: int,
) -> OpenedModel:
    """The model of ``checkpoint`` in evaluation mode on ``device``.

    ``classes`` and the windows are as EvaluateConfig describes them, ``batch_size``
    counts whole clips. Raises ValueError unless the model can hear the audio, and its
    classes are allowed.
    """
    if classes == "same":
        check_checkpoint_fits(index, checkpoint)
    else:
        rate = checkpoint.model_config.front_end.sample_rate
        check_rate(index, sample_rate=rate, what=str(checkpoint.folder))
    what = f"{checkpoint.folder} on {index.where}"
    shared = share_classes(index.classes, checkpoint.classes, what=what)
    bare = checkpoint.build_model()
    in_classes = InClassesOfAudio(bare, shared, len(index.classes))
    model = runtime.move_model(in_classes, device).eval()
    if window_seconds is None:
        return OpenedModel(model, bare, shared)
    rate = index.properties["sample_rate"]
    chunking = Chunking.from_seconds(window_seconds, rate, hop_seconds)
    longest = int(index.table.count.max(initial=1))
    windowed = WindowedModel(
        model,
        chunking,
        shortest_samples=round(MIN_SECONDS * rate),
        # about as much audio as a batch of whole clips
        windows_at_a_time=max(
            batch_size, batch_size * longest // chunking.chunk_samples
        ),
    )
    return OpenedModel(windowed, windowed, shared)
