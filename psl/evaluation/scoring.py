"""Score whole clips with a model, each exactly once, on any number of ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.score_file import ScoreFile
from shards.dataset.reader import MemberReader
from shards.format.index import Index
from shards.order.plan import visit_batches

CLIPS_AT_A_TIME = 32
"""Clips that a process scores at a time, unless told otherwise; their scores do not
depend on it."""
MIN_SECONDS = 0.5
"""Shorter clips are padded to this, so that every model has a frame to look at."""
_SENT_CLIPS = 4096
"""That ranks send to rank 0 together, about."""


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
    columns: list[int],
    batch_size: int,
    loader: LoaderConfig,
    on_frames: OnBatch = lambda places, probs: None,
) -> Iterator[ScoreFile | None]:
    """Probabilities of all clips in ``columns``, on disk: rank 0's. Collective.

    None on the other ranks, which send theirs to rank 0 every few thousand clips. The
    file is in ``folder`` or above it, and gone after the block. Raises OSError on all
    ranks if the disk cannot hold it, JobError unless every clip was scored once.
    """
    files: list[ScoreFile] = []
    with contextlib.ExitStack() as stack:

        def create() -> None:
            file = ScoreFile(folder, num_clips=len(index), num_classes=len(columns))
            files.append(stack.enter_context(file))

        collectives.from_main(create)
        sender = _ToMain(accelerator, batch_size, len(columns), files)
        visit_clips(
            model,
            index,
            accelerator,
            batch_size=batch_size,
            loader=loader,
            on_scores=lambda places, probs: sender.add(places, probs[:, columns]),
            on_frames=on_frames,
        )
        sender.flush()
        collectives.from_main(lambda: files[0].seal())
        yield files[0] if files else None


class _ToMain:
    """Scores of each rank on their way to the file, which rank 0 has. Collective."""

    def __init__(
        self,
        accelerator: Accelerator,
        batch_size: int,
        num_classes: int,
        files: list[ScoreFile],
    ) -> None:
        """``files`` is empty on other ranks."""
        self._files, self._device = files, accelerator.device
        together = batch_size * accelerator.num_processes
        self._batches = max(1, _SENT_CLIPS // together)
        self._probs = torch.zeros(
            self._batches * batch_size, num_classes, device=self._device
        )
        self._places = torch.full((len(self._probs),), -1, device=self._device)
        self._num_batches = self._num_clips = 0

    def add(self, places: np.ndarray, probs: Tensor) -> None:
        """Take the scores [B, C] of a batch; all ranks call it equally often."""
        part = slice(self._num_clips, self._num_clips + len(places))
        self._places[part] = to_device(places, self._device)
        self._probs[part] = probs
        self._num_clips = part.stop
        self._num_batches += 1
        if self._num_batches == self._batches:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        self._places[self._num_clips :] = -1
        places = collectives.gather_on_main(self._places)
        probs = collectives.gather_on_main(self._probs)
        collectives.from_main(lambda: self._write(places, probs))
        self._num_batches = self._num_clips = 0

    def _write(self, places: list[Tensor], probs: list[Tensor]) -> None:
        for where, scores in zip(places, probs, strict=True):
            known = where.cpu().numpy()
            number = int((known >= 0).sum())
            self._files[0].write(known[:number], scores[:number].cpu().numpy())


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

    ``model`` must be in evaluation mode and the same on all ranks. ``before_batch`` and
    ``on_scores``, which gets the clip_probs [B, C], are called equally often on all
    ranks, ``on_scores`` with no clips where other ranks have one batch more. So both
    may be collective. ``on_frames`` gets the frame_probs [B, T, C] of each batch.
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
            on_scores(np.arange(0), nothing)


def _rows(index: Index, rows: np.ndarray | None) -> np.ndarray:
    return np.arange(len(index)) if rows is None else rows


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
    rows = _rows(index, rows)
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
