"""Which chunks a person should look at, and in which order.

Owns the measure of disagreement: a weak label that the teacher gives nowhere in the
clip, or a class that it gives without the weak label. No torch.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.data.pseudo_labels import PseudoLabels
from psl.reviewing.store import Part
from shards.dataset.clips import AudioDataset
from shards.format.classes import Classes
from shards.system.text import plain

ASKED_FROM = 0.2
"""Classes with this label or more are asked about, too."""
MOST_ASKED = 8
PRESENT_FROM = 0.5
"""From this label on a class is proposed as present."""
_FRESH = 8
"""Chunks kept for each one that is shown, so that classes can take turns."""


@dataclass(frozen=True)
class Item:
    """A chunk to look at."""

    key: str
    chunk: int
    start: float
    """Seconds in the clip."""
    end: float
    classes: tuple[int, ...]
    """Those that are asked about, the one that matters most first."""
    probs: tuple[float, ...]
    """The labels of these."""
    weak: tuple[bool, ...]
    """Whether the clip has them as weak labels."""
    score: float
    """How much teacher and weak labels disagree, or what was asked for, in [0, 1]."""

    @property
    def part(self) -> Part:
        """Where it is, for a file of corrections."""
        return self.key, self.start, self.end

    def facts(self, names: Sequence[str], mids: Sequence[str]) -> dict[str, Any]:
        """What a page is told of it; ``names`` as by shown_names."""
        asked = zip(self.classes, self.probs, self.weak, strict=True)
        return {
            "key": plain(self.key, 200),
            "start": self.start,
            "end": self.end,
            "classes": [
                {
                    "mid": mids[c],
                    "name": names[c],
                    "label": round(p, 3),
                    "weak": w,
                    "present": p >= PRESENT_FROM,
                }
                for c, p, w in asked
            ],
        }


def shown_names(classes: Classes) -> list[str]:
    """The class names as people read them, and tell them apart.

    Only mids are unique; a name that two classes have is followed by the mid.
    """
    names = [plain(name) for name in classes.names]
    times = Counter(names)
    return [
        name if times[name] == 1 else f"{name} [{plain(mid)}]"
        for name, mid in zip(names, classes.mids, strict=True)
    ]


Found = tuple[float, int, int, int]
"""Score, row, chunk, class."""
Rule = Callable[[np.ndarray, np.ndarray], Iterator[tuple[float, int, int]]]
"""Labels [K, C] and weak labels [C] of a clip -> score, chunk and class."""


def disagreement(
    probs: np.ndarray, weak: np.ndarray
) -> Iterator[tuple[float, int, int]]:
    """The class of a clip in which teacher and weak labels disagree most.

    At the chunk with its highest label. A clip without weak labels has the chunk of
    which the teacher is least sure instead.
    """
    if not weak.any():
        unsure = 1 - 2 * np.abs(probs - 0.5)
        k, c = divmod(int(unsure.argmax()), unsure.shape[1])
        yield float(unsure[k, c]), k, c
        return
    peak = probs.max(axis=0)
    differs = np.where(weak, 1 - peak, peak)
    c = int(differs.argmax())
    yield float(differs[c]), int(probs[:, c].argmax()), c


def of_class(c: int, low: float, high: float) -> Rule:
    """The chunks whose label of a class is within ``low`` to ``high``.

    Those in the middle first.
    """
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-9)

    def rule(probs: np.ndarray, weak: np.ndarray) -> Iterator[tuple[float, int, int]]:
        del weak
        inside = (probs[:, c] >= low) & (probs[:, c] <= high)
        for k in np.flatnonzero(inside).tolist():
            yield 1 - abs(float(probs[k, c]) - middle) / half, k, c

    return rule


def of_scores(low: float, high: float) -> Rule:
    """The chunks with a class whose label is within ``low`` to ``high``.

    By the class that is nearest to the middle; chunks nearest to it first.
    """
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-9)

    def rule(probs: np.ndarray, weak: np.ndarray) -> Iterator[tuple[float, int, int]]:
        del weak
        away = np.where(
            (probs >= low) & (probs <= high), np.abs(probs - middle), np.inf
        )
        for k, c in enumerate(away.argmin(axis=1).tolist()):
            if np.isfinite(away[k, c]):
                yield 1 - float(away[k, c]) / half, k, c

    return rule


def every_chunk(
    probs: np.ndarray, weak: np.ndarray
) -> Iterator[tuple[float, int, int]]:
    """All chunks of a clip, each with its highest label."""
    del weak
    for k, c in enumerate(probs.argmax(axis=1).tolist()):
        yield 1.0, k, c


def find_items(
    labels: PseudoLabels,
    audio: AudioDataset,
    rule: Rule,
    *,
    number: int,
    rows: Sequence[int] | None = None,
    without: set[Part] | frozenset[Part] = frozenset(),
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda rows: rows,
) -> list[Item]:
    """At most ``number`` chunks by ``rule``, the highest score of each class first.

    Of ``rows``, None for all clips; chunks in ``without`` are left out.
    """
    every = rows if rows is not None else range(len(labels))
    kept: list[Found] = []
    for row in progress(every):
        if labels.num_chunks[row] == 0:
            continue
        probs, weak = labels[row], _weak(audio, row)
        for score, k, c in rule(probs, weak):
            found = (score, -row, -k, c)
            if len(kept) < _FRESH * number:
                heapq.heappush(kept, found)
            elif found > kept[0]:
                heapq.heapreplace(kept, found)
    ranks: Counter[int] = Counter()
    order = []
    for score, row, k, c in sorted(kept, reverse=True):
        order.append((ranks[c], -score, -row, -k, c))
        ranks[c] += 1
    items: dict[tuple[int, int], Item] = {}
    for _, score, row, k, c in sorted(order):
        if len(items) == number:
            break
        if (row, k) in items:
            continue
        item = make_item(labels, audio, row, k, [c], -score)
        if item.part not in without:
            items[row, k] = item
    return list(items.values())


def make_item(
    labels: PseudoLabels,
    audio: AudioDataset,
    row: int,
    chunk: int,
    first: Sequence[int],
    score: float,
) -> Item:
    """A chunk with the classes to ask about: ``first``, and others that may be there.

    Weak labels of the clip come before what only the teacher names.
    """
    probs, weak = labels[row][chunk], _weak(audio, row)
    starts, ends = labels.times(row)
    order = np.argsort(-probs, kind="stable").tolist()
    others = [o for o in order if weak[o]]
    others += [o for o in order if probs[o] >= ASKED_FROM]
    asked = list(dict.fromkeys([*first, *others]))[: max(MOST_ASKED, len(first))]
    asked = asked or order[:1]
    return Item(
        key=labels.keys[row],
        chunk=chunk,
        start=float(starts[chunk]),
        end=float(ends[chunk]),
        classes=tuple(asked),
        probs=tuple(float(probs[o]) for o in asked),
        weak=tuple(bool(weak[o]) for o in asked),
        score=score,
    )


def _weak(audio: AudioDataset, row: int) -> np.ndarray:
    """[C] bool."""
    mask = np.zeros(len(audio.classes), np.bool_)
    table = audio.index.table
    mask[table.label[slice(*table.label_start[row : row + 2])]] = True
    return mask
