"""Score whole clips with a model, each exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from psl.data.batch import pinned, to_device, to_waveform
from psl.data.config import LoaderConfig
from psl.data.loader import fetch_ahead, open_cache
from psl.distributed import collectives
from psl.distributed.arithmetic import without_trials
from psl.evaluation.metrics import Metrics, evaluate_scores
from shards.dataset.reader import MemberReader
from shards.format.index import Index
from shards.order.plan import visit_batches

CLIPS_AT_A_TIME = 32
"""Clips that a process scores at a time, unless told otherwise; their scores do not
depend on it."""
MIN_SECONDS = 0.5
"""Shorter clips are padded to this, so that every model has a frame to look at."""


@without_trials()
def score_clips(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    batch_size: int,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
    on_frames: Callable[[np.ndarray, Tensor], None] = lambda places, probs: None,
) -> np.ndarray:
    """Probabilities [len(rows), C] float32 of clips, on every rank. Collective.

    Without ``rows``, those of all clips. ``model`` must be in evaluation mode and the
    same on all ranks. ``before_batch`` is called equally often on all ranks, so that it
    may be collective. ``on_frames`` gets the places in ``rows`` [B] and the frame_probs
    [B, T, C] of each batch of this rank. Raises RuntimeError unless every clip was
    scored exactly once.
    """
    reader, device = MemberReader(index, open_cache(loader)), accelerator.device
    rows = np.arange(len(index)) if rows is None else rows
    counts = index.table.count[rows]

    def fetch(places: np.ndarray) -> tuple[np.ndarray, Tensor]:
        length = int(counts[places[0]])
        shortest = round(MIN_SECONDS * index.properties["sample_rate"])
        pcm = np.zeros((len(places), max(length, shortest)), np.int16)
        for position, place in enumerate(places):
            pcm[position, :length] = reader.samples(int(rows[place]), 0, length)
        return places, pinned(pcm, device)

    # a last column counts how often each clip was scored
    scores = torch.zeros(len(rows), len(index.classes) + 1, device=device)
    batches = visit_batches(
        counts,
        batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    num_batches = len(visit_batches(counts, batch_size, rank=0, world_size=1))
    with torch.inference_mode():
        for number, (places, pcm) in enumerate(fetch_ahead(fetch, batches, loader)):
            before_batch(number)
            lengths = to_device(counts[places], device)
            clip_probs, frames = model(to_waveform(to_device(pcm, device)), lengths)
            on_frames(places, frames)
            where = to_device(places, device)
            scores[where, :-1] = clip_probs
            scores[where, -1] += 1
    for number in range(len(batches), -(-num_batches // accelerator.num_processes)):
        before_batch(number)
    result = collectives.sum_over_ranks(scores).cpu().numpy()
    if not (result[:, -1] == 1).all():
        place = int(np.flatnonzero(result[:, -1] != 1)[0])
        clip = index.place(int(rows[place]))
        raise RuntimeError(f"{clip} was scored {result[place, -1]:g} times")
    return result[:, :-1]


def evaluate_model(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
    on_scores: Callable[[np.ndarray, np.ndarray], None] = lambda targets, scores: None,
) -> Metrics:
    """Metrics of ``model`` over all clips of ``index``, or ``rows``. Collective.

    ``before_batch`` is that of ``score_clips``. ``on_scores`` gets the weak targets and
    the scores, [V, C] each, on every rank.
    """
    rows = np.arange(len(index)) if rows is None else rows
    scores = score_clips(
        model,
        index,
        accelerator,
        batch_size=CLIPS_AT_A_TIME,
        loader=loader,
        rows=rows,
        before_batch=before_batch,
    )
    targets = index.table.weak_targets(rows, len(index.classes))
    on_scores(targets, scores)
    return evaluate_scores(targets, scores)
