"""Stored labels of the same clips, put into the order of another packing of them.

Owns what must agree for that: keys, classes, the chunks of each clip and, where the old
audio is at hand, its length. Labels are copied as they are. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from psl.data.labels import LabelLayout
from psl.labelling.config import ReorderConfig
from psl.labelling.progress import recorded_audio
from psl.labelling.store import check_keys, make_builder, store
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.classes import class_difference
from shards.format.index import Index, open_index
from shards.format.join import open_indexes

TOLERANCE_SAMPLES = 2
"""By which lengths of a clip at two rates may differ, in samples of the lower rate."""


def reorder_labels(config: ReorderConfig) -> str:
    """Write ``config.labels`` in the order of ``config.audio``; a line for people.

    Raises ShardError naming the first key that is missing or extra, or whose clip has
    another number of chunks or another length, ValueError for labels that cannot be of
    this audio.
    """
    audio = open_index(config.audio, kind="audio")
    labels = open_indexes(config.labels, kind="labels")
    if labels.classes.mids != audio.classes.mids:
        raise ShardError(
            f"{labels.where}: not the classes of {config.audio}: "
            f"{class_difference(labels.classes.mids, audio.classes.mids)}; "
            "pack it with the class list of the labels"
        )
    keys = [key.decode() for key in labels.table.key.tolist()]
    check_keys(audio, keys, labels.where)
    order = _rows_of(audio, labels)
    layout = _at_rate(labels, audio.properties["sample_rate"])
    _check_chunks(audio, labels, labels.table.count[order], layout)
    compared = _check_lengths(config, audio, labels)
    reader = MemberReader(labels)

    def copy(row: int) -> tuple[bytes, int]:
        old = int(order[row])
        for view in range(layout.form.views):
            reader.labels(old, view)  # nothing is copied that is not a label
        return bytes(reader.member(old)), int(labels.table.count[old])

    provenance = {**_provenance(labels), "reordered_from": list(labels.fingerprints)}
    builder = make_builder(config.out, audio, layout, provenance)
    share = float((labels.table.count == 0).mean())
    if not store(builder, audio, layout, config.audio, copy, max_unlabelled=share):
        return f"{config.out}: already there"
    line = f"{config.out}: labels of {len(audio)} clips in the order of {config.audio}"
    return line if compared else f"{line}; lengths compared by number of chunks only"


def _rows_of(audio: Index, labels: Index) -> np.ndarray:
    """[R] the row of ``labels`` with the key of each row of ``audio``."""
    by_key = np.argsort(labels.table.key, kind="stable")
    places = np.searchsorted(labels.table.key[by_key], audio.table.key)
    return by_key[places]


def _check_chunks(
    audio: Index, labels: Index, counts: np.ndarray, layout: LabelLayout
) -> None:
    """ShardError unless each clip has as many chunks as labels, or no labels."""
    expected = layout.chunking.num_chunks(audio.table.count)
    wrong = np.flatnonzero((counts > 0) & (counts != expected))
    if len(wrong):
        row = int(wrong[0])
        raise ShardError(
            f"{audio.place(row)}: has {expected[row]} chunks, but labels for "
            f"{counts[row]} in {labels.where}; so with {len(wrong)} of {len(audio)} "
            "clips: their length is another. Pack the same audio, or label again"
        )


def _at_rate(labels: Index, rate: int) -> LabelLayout:
    """The layout of ``labels`` at another sample rate; ValueError if there is none."""
    layout, old = LabelLayout.from_index(labels), labels.properties["sample_rate"]
    if layout is None:
        raise ValueError(
            f"{labels.where}: its index does not say how chunks were cut; label again"
        )
    if rate == old:
        return layout
    if layout.form.views > 1:
        raise ValueError(
            f"{labels.where}: {layout.form.views} augmented views at {old} Hz, which "
            f"would sound otherwise at {rate} Hz; pack the audio at {old} Hz, or label "
            "again"
        )
    numbers = []
    for samples in (layout.chunking.chunk_samples, layout.chunking.hop_samples):
        scaled, rest = divmod(samples * rate, old)
        if rest:
            raise ValueError(
                f"{labels.where}: chunks and hops of {samples} samples at {old} Hz are "
                f"not a whole number of samples at {rate} Hz; label again"
            )
        numbers.append(scaled)
    return replace(layout, chunking=Chunking(*numbers))


def _check_lengths(config: ReorderConfig, audio: Index, labels: Index) -> bool:
    """Whether the old audio is at hand; ShardError if a clip's length there differs."""
    old = _old_audio(config, labels)
    if old is None:
        return False
    rates = audio.properties["sample_rate"], old.properties["sample_rate"]
    new_seconds = audio.table.count / rates[0]
    old_seconds = old.table.count[_rows_of(audio, old)] / rates[1]
    apart = np.abs(new_seconds - old_seconds) > TOLERANCE_SAMPLES / min(rates)
    if apart.any():
        row = int(apart.argmax())
        raise ShardError(
            f"{audio.place(row)}: {new_seconds[row]:g} s, but {old_seconds[row]:g} s "
            f"in {old.where}, which the labels were made for; so with {apart.sum()} of "
            f"{len(audio)} clips; pack the same audio, or label again"
        )
    return True


def _old_audio(config: ReorderConfig, labels: Index) -> Index | None:
    """The audio that the labels were made for, if it can be had unchanged.

    Raises ShardError if the user names other audio.
    """
    folders: Sequence[str | None] = config.old_audio or [
        recorded_audio(folder) for folder in config.labels
    ]
    if not all(folders):
        return None
    try:
        old = open_indexes([str(folder) for folder in folders], kind="audio")
    except ShardError:
        if config.old_audio is not None:
            raise
        return None
    made_for = {str(p.get("audio_fingerprint")) for p in labels.provenances}
    if made_for == set(old.fingerprints) and len(old) == len(labels):
        return old
    if config.old_audio is None:
        return None
    raise ShardError(
        f"{old.where}: not the audio that {labels.where} was made for (its content is "
        "another); name that with old_audio, or leave it out"
    )


def _provenance(labels: Index) -> dict[str, Any]:
    """What made all folders alike; ValueError if they were made otherwise."""
    own = ("audio_fingerprint", "reordered_from")
    facts = [
        {name: value for name, value in provenance.items() if name not in own}
        for provenance in labels.provenances
    ]
    for other in facts[1:]:
        for name in sorted(facts[0].keys() | other.keys()):
            if facts[0].get(name) != other.get(name):
                raise ValueError(
                    f"{labels.where}: made with {name} = {facts[0].get(name)!r:.100} "
                    f"and {other.get(name)!r:.100}; reorder them one by one"
                )
    return facts[0]
