"""The labels of a label dataset as NumPy, for notebooks and scripts.

Owns the public view of pseudo labels: by row or by key, and when each chunk starts and
ends. psl/data/labels.py checks labels for training. No torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psl.data.labels import LabelLayout
from shards.dataset.clips import Row, RowFinder
from shards.dataset.reader import MemberReader
from shards.format.classes import Classes
from shards.format.index import Index, open_index
from shards.format.join import check_join


class PseudoLabels:
    """The probabilities that a teacher gave to the chunks of each clip.

    >>> labels = psl.read_labels("data/labels_2s", audio="data/balanced")
    >>> labels["Yabcdefghijk_30000"].shape
    (5, 527)
    >>> labels.times("Yabcdefghijk_30000")
    (array([0., 2., 4., 6., 8.]), array([ 2.,  4.,  6.,  8., 10.]))

    ``labels[row]`` and ``labels[key]`` give [K, C] float32; ``len`` and iteration work
    as for a list of these. A clip that could not be labelled has K = 0.
    """

    def __init__(self, index: Index, audio: Index | None = None) -> None:
        """Raises ShardError unless ``audio`` has the clips of these labels."""
        if audio is not None:
            check_join(audio, index)
        self.index = index
        self._audio = audio
        self._layout = LabelLayout.from_index(index)
        self._reader, self._row = MemberReader(index), RowFinder(index)

    def __repr__(self) -> str:
        return f"<PseudoLabels {self.index.where}: {len(self)} clips>"

    @property
    def classes(self) -> Classes:
        """The class list: ``.names`` and ``.mids``, in the order of the columns."""
        return self.index.classes

    @functools.cached_property
    def keys(self) -> list[str]:
        """The key of every clip, by row."""
        return [key.decode() for key in self.index.table.key.tolist()]

    @property
    def views(self) -> int:
        """Views of each chunk that have labels of their own; 1 for most datasets."""
        return self._reader.form.views

    @property
    def num_chunks(self) -> np.ndarray:
        """Chunks of every clip [R] int32, by row."""
        return self.index.table.count

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self[row] for row in range(len(self)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._row.find(key) is not None

    def __getitem__(self, row: Row) -> npt.NDArray[np.float32]:
        return self.of_view(row, 0)

    def of_view(self, row: Row, view: int) -> npt.NDArray[np.float32]:
        """Probabilities [K, C] float32 in [0, 1] of one view of a clip's chunks.

        Of top-k labels, the classes left out have the tail, as in training. Raises
        IndexError or KeyError for an unknown clip or view, ShardError if the member is
        damaged.
        """
        number = self._row(row)
        if not 0 <= view < self.views:
            raise IndexError(f"{self.index.where}: no view {view} of {self.views}")
        return self._reader.labels(number, view).astype(np.float32)

    def times(
        self, row: Row
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Start and end [K] of each chunk of a clip, in seconds from its first sample.

        The last chunk ends with the clip where the audio is given; without it, it is
        as long as the others. Raises ValueError if the dataset does not say how clips
        were cut.
        """
        number = self._row(row)
        rate = self.index.properties.get("sample_rate")
        if self._layout is None or rate is None:
            raise ValueError(
                f"{self.index.where}: does not say how clips were cut into chunks; "
                "label again with this version"
            )
        chunks = np.arange(int(self.index.table.count[number]))
        unlimited = np.iinfo(np.int64).max
        samples = unlimited if self._audio is None else self._audio.table.count[number]
        starts, stops = self._layout.chunking.bounds(chunks, samples)
        return starts / rate, stops / rate


def read_labels(path: str | Path, audio: str | Path | None = None) -> PseudoLabels:
    """The label dataset in a folder, or at a URL.

    With ``audio``, the dataset that the labels are for, the two are checked against
    each other, and the last chunk of a clip ends where the clip does.

    >>> labels = psl.read_labels("data/labels_2s", audio="data/balanced")
    >>> loudest = labels[0].max(axis=0).argsort()[::-1][:3]
    >>> [labels.classes.names[c] for c in loudest]
    ['Speech', 'Dog', 'Vehicle']

    Raises ShardError if there is no label dataset, it is damaged, or it does not
    belong to ``audio``; JobError if a server does not answer.
    """
    index = open_index(path, kind="labels")
    return PseudoLabels(
        index, None if audio is None else open_index(audio, kind="audio")
    )
