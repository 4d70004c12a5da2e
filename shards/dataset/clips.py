"""An audio dataset as a sequence of clips, for notebooks and scripts.

Owns the public view of a dataset: clips by row and by key, their labels by number and
by name, their waveforms as NumPy. MemberReader does the reading. No torch.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from shards.dataset.cache import ShardCache
from shards.dataset.reader import MemberReader
from shards.format.classes import Classes
from shards.format.index import Index, open_index

Row = SupportsIndex | str
"""A clip: its row (negative ones count from the end), or its key."""

_ESCAPED = re.compile(r"(?:=[0-9A-F]{2})+")


@dataclass(frozen=True)
class Clip:
    """What the index says about one clip."""

    row: int
    key: str
    id: str
    """The recording's name, such as a YouTube id; of a very long one, what the key
    has of it."""
    start_seconds: float
    """Where the clip starts in its recording."""
    num_samples: int
    seconds: float
    """Duration."""
    labels: tuple[int, ...]
    """Weak labels as class indices, ascending."""
    label_names: tuple[str, ...]
    """Display names of ``labels``."""


class AudioDataset:
    """The clips of one audio dataset, in the order of its shards.

    >>> dataset = shards.open_dataset("data/balanced")
    >>> clip = dataset["Yabcdefghijk_30000"]
    >>> clip.label_names
    ('Speech', 'Dog')
    >>> dataset.waveform(clip.row).shape
    (160000,)

    ``dataset[row]`` and ``dataset[key]`` give a Clip, ``len`` and iteration work as for
    a list, and ``key in dataset`` says whether there is such a clip. Threads may share
    a dataset; a process that gets a pickled one opens it again.
    """

    def __init__(self, index: Index, cache: ShardCache | None = None) -> None:
        """``cache`` holds shards of a dataset at a URL; by default the user's."""
        self.index = index
        self._reader, self._row = MemberReader(index, cache), RowFinder(index)

    def __reduce__(self) -> tuple[object, ...]:
        cache = self._reader.cache if self._reader.any_remote else None
        place = None if cache is None else (cache.folder, cache.limit_bytes)
        return _reopen, (self.index, place)

    def __repr__(self) -> str:
        return f"<AudioDataset {self.index.where}: {len(self)} clips>"

    @property
    def classes(self) -> Classes:
        """The class list: ``.names`` and ``.mids``, in the order of class indices."""
        return self.index.classes

    @property
    def sample_rate(self) -> int:
        """Rate of every waveform, Hz."""
        return int(self.index.properties["sample_rate"])

    @functools.cached_property
    def keys(self) -> list[str]:
        """The key of every clip, by row."""
        return [key.decode() for key in self.index.table.key.tolist()]

    @property
    def seconds(self) -> np.ndarray:
        """Duration of every clip [R] float64, by row."""
        return self.index.table.count / self.sample_rate

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Clip]:
        return map(self._clip, range(len(self)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._row.find(key) is not None

    def __getitem__(self, row: Row) -> Clip:
        return self._clip(self._row(row))

    def _clip(self, row: int) -> Clip:
        key, table = self.index.key(row), self.index.table
        labels = tuple(table.label[slice(*table.label_start[row : row + 2])].tolist())
        clip_id, start_seconds = split_key(key)
        return Clip(
            row=row,
            key=key,
            id=clip_id,
            start_seconds=start_seconds,
            num_samples=int(table.count[row]),
            seconds=int(table.count[row]) / self.sample_rate,
            labels=labels,
            label_names=tuple(self.classes.names[label] for label in labels),
        )

    def waveform(
        self, row: Row, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Samples ``start`` to ``stop`` [N] float32 in [-1, 1) of a clip.

        ``stop`` None is the clip's end. Raises IndexError or KeyError for an unknown
        clip, ValueError for samples outside it, ClipError if it does not decode.
        """
        return self.pcm(row, start, stop).astype(np.float32) / np.float32(32768)

    def pcm(
        self, row: Row, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.int16]:
        """As ``waveform``, as the int16 samples that are stored."""
        number = self._row(row)
        count = int(self.index.table.count[number])
        stop = count if stop is None else stop
        if not 0 <= start <= stop <= count:
            raise ValueError(
                f"{self.index.place(number)}: samples {start} to {stop} of {count}; "
                f"expected 0 <= start <= stop <= {count}"
            )
        return np.array(self._reader.samples(number, start, stop))

    def weak_labels(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """Weak labels [len(rows), C] float32 in {0, 1}; of all clips without ``rows``.

        Raises IndexError for a row that does not exist.
        """
        every = np.arange(len(self))
        chosen = every if rows is None else every[np.asarray(rows, np.int64)]
        return self.index.table.weak_targets(chosen, len(self.classes))


def open_dataset(path: str | Path, *, cache: ShardCache | None = None) -> AudioDataset:
    """The audio dataset in a folder, or at a URL (http, https, s3 and others).

    Reads the index alone; shards are opened when a waveform is asked for, and those at
    a URL are fetched into ``cache`` first, by default ~/.cache/psl/shards.

    >>> dataset = shards.open_dataset("data/balanced")
    >>> [clip.key for clip in dataset if "Dog" in clip.label_names]
    ['Yabcdefghijk_30000']

    Raises ShardError if there is no dataset, it is damaged, or it holds labels (see
    psl.read_labels); JobError if a server does not answer.
    """
    return AudioDataset(open_index(path, kind="audio"), cache)


def _reopen(index: Index, cache: tuple[Path, int] | None) -> AudioDataset:
    return AudioDataset(index, None if cache is None else ShardCache(*cache))


class RowFinder:
    """The rows of an index by number or by key. Sorts the keys when first asked."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._index.table.key, kind="stable")

    def find(self, key: str) -> int | None:
        """The row of ``key``; None if there is no such key."""
        keys, wanted = self._index.table.key, key.encode(errors="replace")
        if len(wanted) > keys.itemsize:
            return None
        position = int(np.searchsorted(keys, np.bytes_(wanted), sorter=self._order))
        if position == len(keys) or keys[self._order[position]] != wanted:
            return None
        return int(self._order[position])

    def __call__(self, row: Row) -> int:
        """The row, counted from 0, that a number or a key means.

        Raises IndexError for a number out of range, KeyError for an unknown key.
        """
        if isinstance(row, str):
            found = self.find(row)
            if found is None:
                raise KeyError(f"{self._index.where}: no clip with the key {row!r}")
            return found
        number, total = operator.index(row), len(self._index)
        if not -total <= number < total:
            raise IndexError(f"{self._index.where}: no row {number} in {total} clips")
        return number % total


def split_key(key: str) -> tuple[str, float]:
    """Clip id and start in seconds from a key that shards.format.schema.make_key made.

    A key of another form is an id that starts at 0.
    """
    name, _, start = key.rpartition("_")
    if not name or not start.isdigit():
        return key, 0.0
    return _ESCAPED.sub(_unescape, name), int(start) / 1000


def _unescape(match: re.Match[str]) -> str:
    try:
        return bytes.fromhex(match.group().replace("=", "")).decode()
    except UnicodeDecodeError:  # not an escape of make_key
        return match.group()
