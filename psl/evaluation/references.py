"""What an evaluation is held against besides the audio's own labels.

Owns the coverage of an official list, and labels of somebody else for the same clips.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from psl.data.corrections import with_corrections
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.labels import Labels, weak_labels
from psl.evaluation.measured import Measured, measure
from psl.evaluation.metrics import evaluate_scores
from psl.evaluation.official import Coverage, cover
from psl.evaluation.score_tables import ScoreTable, SomeClips
from shards.errors import ShardError
from shards.format.index import Index
from shards.format.ontology import with_ancestors
from shards.format.weak_labels import LabelReader
from shards.packing.segments import read_segments

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OtherLabels:
    """Other labels of some of the clips."""

    source: str
    """What the user named."""
    rows: np.ndarray
    """[V] int64, ascending: clips that have them."""
    labels: Labels
    """Of these clips, V of them, in the classes of the audio."""
    num_elsewhere: int
    """Clips of the source that were not evaluated."""

    def measure(
        self, scores: ScoreTable, columns: list[int], config: EvaluateConfig
    ) -> Measured:
        """Metrics of scores [R, len(columns)] of all clips against these labels."""
        labels, own = self.labels.of_classes(columns), SomeClips(scores, self.rows)
        return measure(
            evaluate_scores(labels, own),
            labels,
            own,
            num_resamples=config.bootstrap,
            seed=config.bootstrap_seed,
        )


@dataclass(frozen=True)
class References:
    """What the configuration names, read."""

    coverage: Coverage | None
    others: dict[str, OtherLabels]
    """By the key of the configuration that names them."""


def open_references(config: EvaluateConfig, index: Index) -> References:
    """Read them; ShardError if one is malformed, or of other clips only."""
    coverage, others = None, {}
    if config.official is not None:
        coverage = cover(config.official, index.table.key.tolist())
        if coverage.present < coverage.listed:
            _log.warning(
                "%s: %d of %d clips are there, not %r for one; results compare only "
                "with those on the same clips",
                config.official,
                coverage.present,
                coverage.listed,
                coverage.missing,
            )
    if config.relabelled is not None:
        others["relabelled"] = _read_relabelled(config.relabelled, index)
    if config.ontology is not None:
        others["ontology"] = _add_ancestors(config.ontology, index)
    if config.corrections is not None:
        corrected, said = with_corrections(index, config.corrections)
        others["corrected"] = OtherLabels(
            config.corrections,
            np.arange(len(index)),
            weak_labels(corrected),
            num_elsewhere=said.num_elsewhere,
        )
    return References(coverage, others)


def _add_ancestors(ontology: str, index: Index) -> OtherLabels:
    labels = weak_labels(with_ancestors(index, ontology))
    return OtherLabels(ontology, np.arange(len(index)), labels, num_elsewhere=0)


def _read_relabelled(path: str, index: Index) -> OtherLabels:
    row_of = {key.decode(): row for row, key in enumerate(index.table.key.tolist())}
    segments = read_segments(path, LabelReader(index.classes))
    here = [segment for segment in segments if segment.key in row_of]
    if not here:
        raise ShardError(
            f"{path}: clips such as {segments[0].key!r}; expected clips of "
            f"{index.where}, such as {index.key(0)!r}"
        )
    here.sort(key=lambda segment: row_of[segment.key])
    labels = Labels.of_pairs(
        np.repeat(np.arange(len(here)), [len(segment.labels) for segment in here]),
        np.array([c for segment in here for c in segment.labels], np.int64),
        num_clips=len(here),
        num_classes=len(index.classes),
    )
    if not len(labels.clip):
        raise ShardError(f"{path}: no clip has a label; nothing to measure against")
    rows = np.array([row_of[segment.key] for segment in here])
    return OtherLabels(path, rows, labels, num_elsewhere=len(segments) - len(here))
