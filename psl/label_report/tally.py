"""One pass over pseudo labels: all that their quality is computed from.

Owns the pass: labels, weak labels and true events of every clip, block by block, in
bounded memory. What the tallies say is quality.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from psl.evaluation.true_events import Events, events_in_chunks
from psl.label_report.score_counts import ScoreCounts
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import Index

ABSENT, PRESENT, UNKNOWN = 0, 1, 2
"""What the events say of a class in a chunk or clip; nothing, if the CSV does not name
the clip, or no event of the whole dataset has the class."""
LEVELS = (0.1, 0.5)
"""A chunk's labels are counted above these."""
BLOCK_VALUES = 1 << 22
"""Label values looked at in one go; about 0.2 GB of temporary arrays."""


@dataclass(frozen=True)
class Block:
    """Some clips in a row, without those that have no labels."""

    rows: np.ndarray
    """[R] int64, in the index."""
    lengths: np.ndarray
    """[R] int64, chunks of each clip."""
    probs: np.ndarray
    """[K, C] float16, labels of all their chunks."""
    weak: np.ndarray
    """[R, C] bool."""
    clip_truth: np.ndarray
    """[R, C] uint8: ABSENT, PRESENT or UNKNOWN."""
    chunk_truth: np.ndarray
    """[K, C] uint8, likewise."""

    @property
    def starts(self) -> np.ndarray:
        """[R] the first chunk of each clip."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def chunk_weak(self) -> np.ndarray:
        """[K, C] bool: the weak labels copied to every chunk of their clip."""
        return np.repeat(self.weak, self.lengths, axis=0)


@dataclass(frozen=True)
class Truth:
    """The events, and when one counts for a chunk."""

    events: Events
    min_samples: int
    """Of an event in a chunk, unless half of it lies there."""


class Tally:
    """What was seen of the labels so far.

    Scores are counted in groups ``3 * weak + truth``, weak being 0 or 1.
    """

    def __init__(self, num_classes: int, *, threshold: float, has_truth: bool) -> None:
        self.threshold = threshold
        self.has_truth = has_truth
        self.num_chunks = 0
        self.num_unlabelled = 0
        """Clips that the label dataset holds without labels."""
        self.chunks = ScoreCounts(6, num_classes)
        """Of every chunk."""
        self.clip_max = ScoreCounts(6, num_classes)
        """Of every clip the greatest of its chunks'."""
        self.clip_mean = ScoreCounts(6, num_classes)
        """Of every clip the mean of its chunks', rounded to float16."""
        self.num_bare_chunks = dict.fromkeys(LEVELS, 0)
        """Chunks without any label above each level."""
        self.num_chunks_of_true_clips = np.zeros(num_classes, np.int64)
        """[C] chunks of clips that hold the class."""
        self.num_localised = 0
        """Pairs (clip, class) that localise found."""
        self.localised = np.zeros(3)
        """Its columns, summed over them."""
        self.most_telling: tuple[float, int] | None = None
        """Greatest telling_by_... so far, and the row of its clip."""

    def add(self, block: Block) -> None:
        """Count the clips of a block."""
        clip_groups = 3 * block.weak.astype(np.uint8) + block.clip_truth
        chunk_groups = 3 * block.chunk_weak.astype(np.uint8) + block.chunk_truth
        self.num_chunks += len(block.probs)
        self.chunks.add(block.probs, chunk_groups)
        if not len(block.rows):
            return
        starts = block.starts
        means = np.add.reduceat(block.probs, starts, axis=0, dtype=np.float32)
        means /= block.lengths[:, None]
        self.clip_max.add(np.maximum.reduceat(block.probs, starts), clip_groups)
        self.clip_mean.add(means.astype(np.float16), clip_groups)
        for level in LEVELS:
            bare = ~(block.probs >= level).any(axis=1)
            self.num_bare_chunks[level] += int(bare.sum())
        holds = block.clip_truth == PRESENT
        self.num_chunks_of_true_clips += block.lengths @ holds
        found = localise(block)
        self.num_localised += len(found)
        self.localised += found.sum(axis=0)
        if self.has_truth:
            scores = telling_by_events(block, self.threshold)
        else:
            scores = telling_by_change(block)
        best = int(scores.argmax())
        if self.most_telling is None or scores[best] > self.most_telling[0]:
            self.most_telling = float(scores[best]), int(block.rows[best])


def tally(
    audio: Index,
    labels: Index,
    chunking: Chunking,
    truth: Truth | None,
    *,
    threshold: float,
) -> Tally:
    """Look once at all ``labels``, which belong to ``audio`` row by row.

    Raises ShardError naming a clip whose labels cannot be read.
    """
    has_truth = truth is not None
    result = Tally(len(audio.classes), threshold=threshold, has_truth=has_truth)
    reader = MemberReader(labels)
    with tqdm(total=len(labels), unit="clip", desc="label report") as bar:
        for rows in _blocks(labels):
            labelled = rows[labels.table.count[rows] > 0]
            result.num_unlabelled += len(rows) - len(labelled)
            result.add(read_block(audio, reader, labelled, chunking, truth))
            bar.update(len(rows))
    return result


def _blocks(labels: Index) -> Iterator[np.ndarray]:
    """Rows of all clips, at a time as many as have BLOCK_VALUES labels, or one."""
    values = np.cumsum(labels.table.count, dtype=np.int64) * len(labels.classes)
    number = values // BLOCK_VALUES
    yield from np.split(np.arange(len(labels)), np.flatnonzero(np.diff(number)) + 1)


def read_block(
    audio: Index,
    reader: MemberReader,
    rows: np.ndarray,
    chunking: Chunking,
    truth: Truth | None,
) -> Block:
    """Labels, weak labels and truth of clips ``rows``, ascending."""
    num_classes = len(audio.classes)
    labels = [reader.labels(row) for row in rows.tolist()]
    lengths = np.array([len(of_clip) for of_clip in labels], np.int64)
    probs = np.concatenate([np.empty((0, num_classes), np.float16), *labels])
    clip_truth = np.full((len(rows), num_classes), UNKNOWN, np.uint8)
    chunk_truth = np.full((len(probs), num_classes), UNKNOWN, np.uint8)
    if truth is not None and len(rows):
        events = truth.events
        has_events = np.bincount(events.label, minlength=num_classes) > 0
        clip_truth[np.ix_(events.covered[rows], has_events)] = ABSENT
        chunk_truth[:] = np.repeat(clip_truth, lengths, axis=0)
        nearby = events.of_rows(int(rows[0]), int(rows[-1]) + 1)
        these = nearby.start + np.flatnonzero(np.isin(events.row[nearby], rows))
        clip = np.searchsorted(rows, events.row[these])
        event, chunk = events_in_chunks(
            events.start[these],
            events.stop[these],
            audio.table.count[events.row[these]].astype(np.int64),
            chunking=chunking,
            min_samples=truth.min_samples,
        )
        starts = np.cumsum(lengths) - lengths
        clip_truth[clip, events.label[these]] = PRESENT
        at = starts[clip[event]] + chunk
        chunk_truth[at, events.label[these][event]] = PRESENT
    return Block(
        rows=rows,
        lengths=lengths,
        probs=probs.astype(np.float16, copy=False),
        weak=audio.table.weak_targets(rows, num_classes) > 0,
        clip_truth=clip_truth,
        chunk_truth=chunk_truth,
    )


def localise(block: Block) -> np.ndarray:
    """[P, 3] float64: whether labels know where in its clip a weakly labelled class is.

    A row for every clip and class of its weak labels that has both chunks with and
    without it: the share of (present, absent) pairs of its chunks in which the present
    one has the higher label, ties counting half; the mean label of the present chunks;
    that of the absent ones.
    """
    clip, label = np.nonzero(block.weak)
    lengths = block.lengths[clip]
    place = np.arange(lengths.max(initial=0))
    valid = place < lengths[:, None]
    chunk = np.where(valid, block.starts[clip][:, None] + place, 0)
    scores = block.probs[chunk, label[:, None]].astype(np.float64)
    truth = block.chunk_truth[chunk, label[:, None]]
    present, absent = valid & (truth == PRESENT), valid & (truth == ABSENT)
    use = present.any(axis=1) & absent.any(axis=1)
    scores, present, absent = scores[use], present[use], absent[use]
    above = np.sign(scores[:, :, None] - scores[:, None, :]) / 2 + 0.5
    pairs = present[:, :, None] & absent[:, None, :]
    return np.stack(
        [
            (above * pairs).sum(axis=(1, 2)) / pairs.sum(axis=(1, 2)),
            (scores * present).sum(axis=1) / present.sum(axis=1),
            (scores * absent).sum(axis=1) / absent.sum(axis=1),
        ],
        axis=1,
    )


def telling_by_events(block: Block, threshold: float) -> np.ndarray:
    """[R] float64: by how much the labels of each clip correct its weak labels.

    In how many classes the highest chunk's label at ``threshold`` says rightly whether
    the clip has it and the weak label wrongly, less the opposite. Of equals, that over
    chunks with copied weak labels decides, in a fraction below one half. Classes of
    which nothing is known do not count.
    """
    highest = np.maximum.reduceat(block.probs, block.starts)
    mended = _mended(highest >= threshold, block.weak, block.clip_truth)
    in_chunks = _mended(block.probs >= threshold, block.chunk_weak, block.chunk_truth)
    share = np.add.reduceat(in_chunks, block.starts) / block.lengths
    return mended + share / (2 * block.weak.shape[1] + 1)


def _mended(said: np.ndarray, weak: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N] classes in which ``said`` [N, C] is right and ``weak`` is not, net."""
    present, known = truth == PRESENT, truth != UNKNOWN
    return ((said == present) & known).sum(axis=1) - ((weak == present) & known).sum(
        axis=1
    )


def telling_by_change(block: Block) -> np.ndarray:
    """[R] float64: how much the labels of each clip rise and fall, over all classes."""
    highest = np.maximum.reduceat(block.probs, block.starts)
    lowest = np.minimum.reduceat(block.probs, block.starts)
    return (highest - lowest).sum(axis=1, dtype=np.float64)
