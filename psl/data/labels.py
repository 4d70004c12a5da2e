"""How the rows of a label dataset are laid out, and whether they fit a run.

Owns chunks, form and views of a label dataset as its index records them, and the checks
before training on one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.data.config import Setting
from psl.data.views import Augmentation
from shards.format.chunking import Chunking
from shards.format.index import Index
from shards.format.join import check_join, open_indexes
from shards.format.label_codec import LabelForm, encode_labels


@dataclass(frozen=True)
class LabelLayout:
    """Chunks, form and views of a label dataset."""

    chunking: Chunking
    form: LabelForm
    augmentation: Augmentation

    @staticmethod
    def from_index(labels: Index) -> LabelLayout | None:
        """The layout in an index; None if it does not say how clips were cut."""
        found = labels.properties
        if "chunk_samples" not in found or "hop_samples" not in found:
            return None
        chunking = Chunking(found["chunk_samples"], found["hop_samples"])
        return LabelLayout(
            chunking, LabelForm.of(found), Augmentation.from_properties(found)
        )

    @property
    def properties(self) -> dict[str, Any]:
        """What an index records of this layout."""
        return {
            "chunk_samples": self.chunking.chunk_samples,
            "hop_samples": self.chunking.hop_samples,
            **self.form.properties,
            **(self.augmentation.properties if self.form.views > 1 else {}),
        }

    def encode(self, probs: np.ndarray) -> bytes:
        """The label member of a clip from probabilities [V * K, C], view by view.

        Raises ValueError if a value is not in [0, 1].
        """
        if self.form.views > 1:
            probs = probs.reshape(self.form.views, -1, probs.shape[-1])
        return encode_labels(probs, self.form)


def open_labels(
    folders: Sequence[str],
    audio: Index,
    *,
    chunk_seconds: float,
    hop_seconds: float | None,
    settings: Mapping[str, Setting] | None,
) -> tuple[Index, LabelLayout]:
    """Label datasets joined with ``audio``, and how they are laid out.

    Raises ShardError unless they have the rows of ``audio``, ValueError unless they
    were cut as asked (``hop_seconds`` None: any hop) and record what
    ``settings`` says.
    """
    labels = open_indexes(folders, kind="labels")
    check_join(audio, labels)
    check_settings(labels, settings or {})
    layout = LabelLayout.from_index(labels)
    rate = audio.properties["sample_rate"]
    asked = Chunking.from_seconds(chunk_seconds, rate, hop_seconds)
    if layout and hop_seconds is None:
        hop_samples = min(layout.chunking.hop_samples, asked.chunk_samples)
        asked = Chunking(asked.chunk_samples, hop_samples)
    if layout is None or layout.chunking != asked:
        found = _in_seconds(layout.chunking, rate) if layout else "unknown length"
        raise ValueError(
            f"{labels.where}: labels are for chunks of {found}, but chunk_seconds and "
            f"hop_seconds ask for {_in_seconds(asked, rate)}; set chunk_seconds to the "
            "labels', hop_seconds to theirs or null, or label again"
        )
    check_counts(labels, asked.num_chunks(audio.table.count))
    return labels, layout


def _in_seconds(chunking: Chunking, sample_rate: int) -> str:
    length, hop = chunking.chunk_samples, chunking.hop_samples
    return f"{length / sample_rate:g} s every {hop / sample_rate:g} s"


def check_counts(labels: Index, expected: np.ndarray) -> None:
    """ValueError unless each row has as many chunks as its clip has, or none."""
    labelled = labels.table.count > 0  # the others, psl/labelling/unlabelled.py limits
    wrong = np.flatnonzero(labelled & (labels.table.count != expected))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{labels.place(row)}: {labels.table.count[row]} chunks, expected "
            f"{expected[row]}; relabel it"
        )


def check_settings(labels: Index, settings: Mapping[str, Setting]) -> None:
    """ValueError unless every folder records what ``settings`` says.

    A setting is a property or a field of the provenance; None means that there must be
    none of this name.
    """
    for provenance in labels.provenances:
        found = {**labels.properties, **provenance}
        for name, expected in settings.items():
            if found.get(name) != expected:
                raise ValueError(
                    f"{labels.where}: made with {name} = {found.get(name)!r}, but "
                    f"data.label_settings asks for {expected!r}; name other labels, or "
                    f"label again (they record: {', '.join(sorted(found))})"
                )


def count_unlabelled(labels: Index) -> int:
    """The clips of a label set that could not be labelled."""
    return int((labels.table.count == 0).sum())


def check_allowed(labels: Index, limit: float) -> None:
    """ValueError if more than ``limit`` of all clips could not be labelled."""
    number = count_unlabelled(labels)
    if number > limit * len(labels):
        first = labels.place(int((labels.table.count == 0).argmax()))
        raise ValueError(
            f"{first} and {number - 1} more of {len(labels)} clips have no labels, as "
            "their audio did not decode; label again, or leave them out with "
            f"data.max_unlabelled={math.ceil(1e4 * number / len(labels)) / 1e4:g}"
        )
