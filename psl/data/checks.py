"""Checks that audio fits what a model or a run expects."""

from __future__ import annotations

from shards.format.classes import Classes, class_difference
from shards.format.index import Index


def check_rate(index: Index, *, sample_rate: int, what: str) -> None:
    """ValueError unless the audio has the rate of a model."""
    rate = index.properties["sample_rate"]
    if rate != sample_rate:
        raise ValueError(
            f"{index.where}: audio at {rate} Hz, but {what} expects {sample_rate} Hz; "
            f"pack it with --sample-rate {sample_rate}"
        )


def check_fits(index: Index, *, sample_rate: int, classes: Classes, what: str) -> None:
    """ValueError unless the audio has the rate and the classes of a model."""
    check_rate(index, sample_rate=sample_rate, what=what)
    if index.classes.mids != classes.mids:
        raise ValueError(
            f"{index.where}: not the classes of {what}: "
            f"{class_difference(index.classes.mids, classes.mids)}; "
            "pack it with the same class list (or psl.evaluate with classes=shared)"
        )


def check_has_labels(audio: Index, purpose: str) -> None:
    """ValueError if no clip has a weak label."""
    if not len(audio.table.label):
        raise ValueError(
            f"{audio.where}: no clip has a label, so nothing to {purpose}; pack it "
            "from segments with labels"
        )
