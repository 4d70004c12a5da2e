"""Score whole clips with a model, each exactly once, on any number of ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from psl.data.batch import to_device, to_waveform
from psl.data.batch_memory import BatchMemory
from psl.data.config import LoaderConfig
from psl.data.loader import fetch_ahead, open_cache
from psl.distributed import collectives
from psl.distributed.arithmetic import without_trials
from psl.evaluation.labels import Labels, weak_labels
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.score_tables import ScoreTable
from psl.evaluation.to_main import ToMain
from shards.dataset.reader import MemberReader
from shards.format.index import Index
from shards.order.plan import visit_batches

CLIPS_AT_A_TIME = 32
"""Clips that a process scores at a time, unless told otherwise; their scores do not
depend on it."""
MIN_SECONDS = 0.5
"""Shorter clips are padded to this, so that every model has a frame to look at."""
VALIDATION_BYTES = 64_000_000
"""Scores of a validation that stay in memory; those of AudioSet's evaluation clips take
43 MB. A file would cost 4 ms on a local disk (2026-11-29, busy machine), and more on a
file server, where run folders often are."""

OnBatch = Callable[[np.ndarray, Tensor], None]
"""Gets the places of clips among the rows [B], and something of each."""


def score_clips(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    batch_size: int,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
) -> np.ndarray:
    """Probabilities [len(rows), C] float32 of clips, on every rank. Collective.

    All are in memory; scores_on_disk has them elsewhere. Without ``rows``, those of all
    clips. ``model`` and ``before_batch`` are as visit_clips has them. Raises
    RuntimeError unless every clip was scored exactly once.
    """
    rows, device = _rows(index, rows), accelerator.device
    # a last column counts how often each clip was scored
    scores = torch.zeros(len(rows), len(index.classes) + 1, device=device)

    def keep(places: np.ndarray, clip_probs: Tensor) -> None:
        where = to_device(places, device)
        scores[where, :-1] = clip_probs
        scores[where, -1] += 1

    visit_clips(
        model,
        index,
        accelerator,
        batch_size=batch_size,
        loader=loader,
        rows=rows,
        before_batch=before_batch,
        on_scores=keep,
    )
    result = collectives.sum_over_ranks(scores).cpu().numpy()
    if not (result[:, -1] == 1).all():
        place = int(np.flatnonzero(result[:, -1] != 1)[0])
        clip = index.place(int(rows[place]))
        raise RuntimeError(f"{clip} was scored {result[place, -1]:g} times")
    return result[:, :-1]


@contextlib.contextmanager
def scores_on_disk(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    folder: str | Path,
    columns: Sequence[int],
    batch_size: int,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
    on_frames: OnBatch = lambda places, probs: None,
    bytes_in_memory: int = 0,
) -> Iterator[ScoreFile | None]:
    """Probabilities of clips in ``columns``, on disk: rank 0's. Collective.

    None on the other ranks, which send theirs to rank 0 every few thousand clips. The
    file is in ``folder`` or above it, and gone after the block; up to
    ``bytes_in_memory`` there is none. ``model``, ``rows`` and what is called are as
    visit_clips has them. Raises OSError on all ranks if the disk cannot hold it,
    JobError unless every clip was scored once.
    """
    rows, files, chosen = _rows(index, rows), list[ScoreFile](), list(columns)
    with contextlib.ExitStack() as stack:

        def create() -> None:
            file = ScoreFile(
                folder,
                num_clips=len(rows),
                num_classes=len(columns),
                bytes_in_memory=bytes_in_memory,
            )
            files.append(stack.enter_context(file))

        collectives.from_main(create)
        sender = ToMain(
            accelerator,
            files,
            num_classes=len(columns),
            rows_of_a_batch=batch_size,
        )
        visit_clips(
            model,
            index,
            accelerator,
            batch_size=batch_size,
            loader=loader,
            rows=rows,
            before_batch=before_batch,
            on_scores=lambda places, probs: sender.add(places, probs[:, chosen]),
            on_frames=on_frames,
        )
        sender.flush()
        collectives.from_main(lambda: files[0].seal())
        yield files[0] if files else None


@without_trials()
def visit_clips(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    batch_size: int,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
    on_scores: OnBatch = lambda places, probs: None,
    on_frames: OnBatch = lambda places, probs: None,
) -> None:
    """Run ``model`` on this rank's share of the clips. Collective if the calls are.

    ``model`` must be in evaluation mode and the same on all ranks. ``on_frames`` gets
    the frame_probs [B, T, C] of each batch, ``on_scores`` the clip_probs [B, C]. They
    and ``before_batch`` are called equally often on all ranks, with no clips where
    other ranks have one batch more. So all may be collective.
    """
    reader, device = MemberReader(index, open_cache(loader)), accelerator.device
    rows, memory = _rows(index, rows), BatchMemory.for_device(device)
    counts = index.table.count[rows]

    def fetch(places: np.ndarray) -> tuple[np.ndarray, Tensor]:
        length = int(counts[places[0]])
        shortest = round(MIN_SECONDS * index.properties["sample_rate"])
        pcm = memory.take((len(places), max(length, shortest)))
        pcm[:, length:] = 0
        for position, place in enumerate(places):
            pcm[position, :length] = reader.samples(int(rows[place]), 0, length)
        return places, torch.from_numpy(pcm)

    num_ranks, rank = accelerator.num_processes, accelerator.process_index
    batches = visit_batches(counts, batch_size, rank=rank, world_size=num_ranks)
    num_batches = len(visit_batches(counts, batch_size, rank=0, world_size=1))
    with torch.inference_mode():
        for number, (places, pcm) in enumerate(fetch_ahead(fetch, batches, loader)):
            before_batch(number)
            lengths = to_device(counts[places], device)
            waveform = to_waveform(memory.to_device(pcm, device))
            clip_probs, frames = model(waveform, lengths)
            on_frames(places, frames)
            on_scores(places, clip_probs)
        nothing = torch.zeros(0, len(index.classes), device=device)
        for number in range(len(batches), -(-num_batches // num_ranks)):
            before_batch(number)
            on_frames(np.arange(0), nothing[:, None])
            on_scores(np.arange(0), nothing)


def _rows(index: Index, rows: np.ndarray | None) -> np.ndarray:
    return np.arange(len(index)) if rows is None else rows


def evaluate_model(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    folder: str | Path,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
    on_scores: Callable[[Labels, ScoreTable], None] = lambda labels, scores: None,
) -> Metrics:
    """Metrics of ``model`` over all clips of ``index``, or ``rows``. Collective.

    The scores are where scores_on_disk has them, beyond VALIDATION_BYTES in ``folder``,
    and rank 0 measures for all.
    ``on_scores`` gets the weak labels of these clips and their scores, on rank 0 alone.
    """
    rows = _rows(index, rows)
    labels = weak_labels(index).of_clips(rows)
    with scores_on_disk(
        model,
        index,
        accelerator,
        folder=folder,
        columns=range(len(index.classes)),
        batch_size=CLIPS_AT_A_TIME,
        loader=loader,
        rows=rows,
        before_batch=before_batch,
        bytes_in_memory=VALIDATION_BYTES,
    ) as scores:

        def measure() -> Metrics:
            assert scores is not None, "rank 0 has them"
            on_scores(labels, scores)
            return evaluate_scores(labels, scores)

        return collectives.from_main(measure)
