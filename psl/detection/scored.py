"""The frames of a dataset's clips, with their true events where these are known.

Owns how frame probabilities get their place in time.
"""

from __future__ import annotations

import logging

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from psl.data.checks import check_rate
from psl.detection.config import EventsConfig
from psl.detection.events import Events, ScoredClip
from psl.distributed import runtime
from psl.evaluation.scoring import MIN_SECONDS, score_clips
from psl.evaluation.shared_classes import InClassesOfAudio, share_classes
from psl.evaluation.true_events import read_events
from psl.evaluation.windows import WindowedModel, frame_bounds
from psl.weights.checkpoint import Checkpoint, check_checkpoint_fits
from shards.format.chunking import Chunking
from shards.format.classes import Classes
from shards.format.index import Index, open_index

_log = logging.getLogger(__name__)

NO_EVENTS = Events.of([])


def score_frames(
    config: EventsConfig,
    checkpoint: Checkpoint,
    accelerator: Accelerator,
    *,
    audio: str,
    strong: str | None,
) -> tuple[list[ScoredClip], Classes]:
    """The clips of ``audio`` that ``strong`` names, or all, and their classes [C].

    In the order of the dataset. Raises ShardError or ValueError if the files cannot be
    read, or do not fit the checkpoint.
    """
    index = open_index(audio, kind="audio")
    if config.classes == "same":
        check_checkpoint_fits(index, checkpoint)
    else:
        rate = checkpoint.model_config.front_end.sample_rate
        check_rate(index, sample_rate=rate, what=str(checkpoint.folder))
    what = f"{checkpoint.folder} on {index.where}"
    shared = share_classes(index.classes, checkpoint.classes, what=what)
    truth, rows = _read_truth(config, index, strong, shared.of_audio)
    bare = checkpoint.build_model()
    wrapped = InClassesOfAudio(bare, shared, len(index.classes))
    model: nn.Module = runtime.move_model(wrapped, accelerator.device).eval()
    windowed, framed = model, bare
    if config.window_seconds is not None:
        windowed = framed = _in_windows(config, model, index)
    rate = index.properties["sample_rate"]
    clips: dict[int, ScoredClip] = {}

    def keep(places: np.ndarray, frame_probs: Tensor) -> None:
        length = int(index.table.count[rows[places[0]]])
        starts, stops = frame_bounds(framed, length)
        edges = frame_edges(starts, stops) / rate
        probs = frame_probs[:, : len(starts), shared.of_audio].cpu().numpy()
        for place, scores in zip(places.tolist(), probs, strict=True):
            row = int(rows[place])
            events = truth.get(row, NO_EVENTS)
            clips[place] = ScoredClip(index.key(row), scores, edges, events)

    score_clips(
        windowed,
        index,
        accelerator,
        batch_size=config.batch_size,
        loader=config.loader,
        rows=rows,
        on_frames=keep,
    )
    return [clips[place] for place in range(len(rows))], shared.classes


def frame_edges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """[T + 1] float64, in samples: where frames from ``starts`` to ``stops`` [T] part.

    Windows that overlap stand for what is nearest to their middles.
    """
    parts = starts[1:].astype(np.float64)
    if (stops[:-1] > starts[1:]).any():
        middles = (starts + stops) / 2
        parts = (middles[:-1] + middles[1:]) / 2
    return np.concatenate([[0.0], parts, stops[-1:]])


def _in_windows(config: EventsConfig, model: nn.Module, index: Index) -> WindowedModel:
    rate, hop = index.properties["sample_rate"], config.hop_seconds
    assert config.window_seconds is not None
    chunking = Chunking.from_seconds(config.window_seconds, rate, hop)
    return WindowedModel(
        model,
        chunking,
        shortest_samples=round(MIN_SECONDS * rate),
        windows_at_a_time=8 * config.batch_size,
    )


def _read_truth(
    config: EventsConfig, index: Index, strong: str | None, of_audio: list[int]
) -> tuple[dict[int, Events], np.ndarray]:
    """The true events of each row, in the classes ``of_audio``, and the rows to score.

    Clips that the CSV does not name are not scored: nothing is known of them.
    """
    if strong is None:
        return {}, np.arange(len(index))
    found = read_events(
        strong, index, max_left_out=config.max_left_out or 0.0, option="max_left_out="
    )
    left_out = sum(found.unknown.values()) + found.num_outside
    if left_out:
        _log.warning("%s: %d events left out", strong, left_out)
    rate = index.properties["sample_rate"]
    column = {audio: place for place, audio in enumerate(of_audio)}
    rows: dict[int, list[tuple[int, float, float]]] = {}
    for row, start, stop, label in zip(
        found.row.tolist(),
        found.start.tolist(),
        found.stop.tolist(),
        found.label.tolist(),
        strict=True,
    ):
        if label in column:
            event = (column[label], start / rate, stop / rate)
            rows.setdefault(row, []).append(event)
    events = {row: Events.of(listed).joined() for row, listed in rows.items()}
    return events, np.flatnonzero(found.covered)
