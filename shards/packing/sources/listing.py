"""Where clips come from before they are packed.

Owns what all sources have in common: a listing of clips, each with a place that only
its source understands, and a function that turns such a clip into samples. One module
a source; each has a ``list_clips`` that returns a Listing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shards.errors import ShardError, naming
from shards.format.classes import Classes
from shards.format.ontology import add_ancestors, read_ontology
from shards.format.schema import make_key
from shards.format.weak_labels import LabelReader
from shards.packing.names import parse_stem
from shards.system.extras import pip_install


@dataclass(frozen=True)
class Clip:
    """One clip to be packed."""

    key: str
    clip_id: str
    start_seconds: float
    """Where the clip begins in recording ``clip_id``."""
    labels: tuple[int, ...]
    """Weak class indices, ascending."""
    place: tuple[Any, ...]
    """What the source needs to load it: plain values, sent to worker processes."""

    @staticmethod
    def named(
        stem: str,
        labels: Any,
        place: tuple[Any, ...],
        *,
        reader: LabelReader,
        where: str,
    ) -> Clip:
        """The clip whose id and start a file name without suffix tells.

        ``labels`` are as ``reader`` takes them. Raises ShardError naming ``where`` if
        they or the name cannot be used.
        """
        return Clip.of(stem, reader.parse(labels, where=where), place, where=where)

    @staticmethod
    def of(
        stem: str, labels: tuple[int, ...], place: tuple[Any, ...], *, where: str
    ) -> Clip:
        """The same with class indices."""
        clip_id, start_seconds = parse_stem(stem)
        with naming(where):
            key = make_key(clip_id, start_seconds)
        return Clip(key, clip_id, start_seconds, labels, place)


Load = Callable[[Clip, int], np.ndarray]
"""Samples [N] int16 of a clip, mono at the rate asked for (Hz).

Raises ShardError if the clip cannot be used. Can be sent to worker processes."""


@dataclass(frozen=True)
class Listing:
    """All clips of one source."""

    where: str
    """The file or folder, for messages."""
    clips: list[Clip]
    missing: list[list[str]]
    """Report lines (key, "missing", reason) of what should be there and is not."""
    provenance: dict[str, Any]
    """What the clips were listed from; a rerun into the same folder must agree."""
    load: Load
    groups: np.ndarray | None = None
    """[R] number of the run of clips that are cheap to read together, ascending; None
    if every clip can be read for itself."""
    rejected: list[list[str]] = field(default_factory=list)
    """Report lines (key, "rejected", reason) of what is there and cannot be used."""
    describe: Callable[[Clip], str] = lambda clip: str(clip.place)
    """The place of a clip, for messages."""


def join_labels(clips: Iterable[Clip]) -> list[Clip]:
    """``clips``, where those with the same key and place are one with all labels.

    So a list may have one row for each label of a clip. Equal clips stay as they are,
    for check_listing to name.
    """
    joined: dict[tuple[Any, ...], Clip] = {}
    same: list[Clip] = []
    for clip in clips:
        first = joined.setdefault((clip.key, clip.place), clip)
        if first is not clip and first.labels == clip.labels:
            same.append(clip)
        elif first is not clip:
            labels = tuple(sorted({*first.labels, *clip.labels}))
            joined[clip.key, clip.place] = replace(first, labels=labels)
    return [*joined.values(), *same]


def add_to_listing(listing: Listing, classes: Classes, ontology: str) -> Listing:
    """``listing`` with the ancestors that ``ontology`` adds to the labels of each clip.

    Raises ShardError if it cannot be read or has none of the classes.
    """
    found = read_ontology(ontology)
    implied = found.implied(classes)
    clips = [
        replace(clip, labels=add_ancestors(clip.labels, implied))
        for clip in listing.clips
    ]
    provenance = {**listing.provenance, "ontology_sha256": found.sha256}
    return replace(listing, clips=clips, provenance=provenance)


def import_optional(name: str, *, extra: str) -> Any:
    """A module that only some sources need; ShardError saying how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ShardError(
            f"this source needs a package that is not installed ({error}); run "
            f"{pip_install(extra)}"
        ) from None
