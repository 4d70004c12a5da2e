"""The frames of a dataset's clips by a model, with their true events where known.

Owns how frame probabilities get their place in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from torch import Tensor

from psl.detection.config import EventsConfig
from psl.detection.events import ScoredClip
from psl.detection.truth import Truth
from psl.evaluation.opened import open_model
from psl.evaluation.scoring import visit_clips
from psl.evaluation.segments import Segments
from psl.evaluation.strong import open_events
from psl.evaluation.windows import frame_bounds
from psl.weights.checkpoint import Checkpoint
from shards.format.classes import Classes
from shards.format.index import Index, open_index


@dataclass(frozen=True)
class Scored:
    """Clips as a model hears them."""

    clips: list[ScoredClip]
    classes: Classes
    """[C], those that are measured."""
    segments: Segments | None
    """Of all these clips; None if no truth is known."""


def score_frames(
    config: EventsConfig,
    checkpoint: Checkpoint,
    accelerator: Accelerator,
    *,
    audio: str,
    strong: str | None,
) -> Scored:
    """The clips of ``audio`` that ``strong`` names, or all.

    In the order of the dataset. Raises ShardError or ValueError if the files cannot be
    read, or do not fit the checkpoint.
    """
    index = open_index(audio, kind="audio")
    opened = open_model(
        checkpoint,
        index,
        accelerator.device,
        classes=config.classes,
        window_seconds=config.window_seconds,
        hop_seconds=config.hop_seconds,
        batch_size=config.batch_size,
    )
    shared = opened.shared
    truth, rows = _read_truth(config, index, strong, shared.of_audio)
    clips: dict[int, ScoredClip] = {}

    def keep(places: np.ndarray, frame_probs: Tensor) -> None:
        length = int(index.table.count[rows[places[0]]])
        starts, stops = frame_bounds(opened.framed, length)
        probs = frame_probs[:, : len(starts), shared.of_audio].cpu().numpy()
        for place, scores in zip(places.tolist(), probs, strict=True):
            row = int(rows[place])
            if not np.isfinite(scores).all():
                raise ValueError(
                    f"{checkpoint.folder} on {index.place(row)}: a probability is not "
                    "finite; the model is broken"
                )
            clips[place] = truth.clip(row, scores, starts, stops)

    visit_clips(
        opened.model,
        index,
        accelerator,
        batch_size=config.batch_size,
        loader=config.loader,
        rows=rows,
        on_frames=keep,
    )
    in_order = [clips[place] for place in range(len(rows))]
    return Scored(in_order, shared.classes, truth.segments)


def _read_truth(
    config: EventsConfig, index: Index, strong: str | None, of_audio: list[int]
) -> tuple[Truth, np.ndarray]:
    """What is true in the classes ``of_audio``, and the rows to score.

    Clips that the CSV does not name are not scored: nothing is known of them.
    """
    if strong is None:
        return Truth(index, {}, None), np.arange(len(index))
    found = open_events(strong, index, config.max_left_out, of_audio)
    return Truth.of(found, index, of_audio), np.flatnonzero(found.covered)
