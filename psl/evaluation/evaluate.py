"""Score a dataset's clips with a checkpoint and measure.

Owns exactly-once scoring at any world size, and what is measured.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
from accelerate import Accelerator

from psl.data.checks import check_has_labels
from psl.distributed import collectives, launch
from psl.distributed.arithmetic import choose_arithmetic
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.measured import measure
from psl.evaluation.metrics import evaluate_scores
from psl.evaluation.opened import open_model
from psl.evaluation.references import References, open_references, weak_labels
from psl.evaluation.results import summarise, write_results
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.score_tables import ScoreTable
from psl.evaluation.scoring import scores_on_disk
from psl.evaluation.segment_scores import SegmentScores
from psl.evaluation.segments import (
    SEGMENT_SECONDS,
    SegmentMetrics,
    Segments,
    default_overlap,
    measure_segments,
)
from psl.evaluation.shared_classes import SharedClasses
from psl.evaluation.stored import write_table
from psl.evaluation.strong import open_events
from psl.evaluation.windows import frame_bounds
from psl.weights.checkpoint import load_checkpoint
from shards.format.index import Index, open_index

_log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, accelerator: Accelerator) -> dict[str, Any] | None:
    """Evaluate a checkpoint, leave the job and write the results. Collective.

    What metrics.json holds; None on other ranks than 0.
    """
    index = open_index(config.audio, kind="audio")
    checkpoint = load_checkpoint(config.checkpoint)
    check_has_labels(index, "evaluate against")
    what = f"{checkpoint.folder} on {index.where}"
    opened = open_model(
        checkpoint,
        index,
        accelerator.device,
        classes=config.classes,
        window_seconds=config.window_seconds,
        hop_seconds=config.hop_seconds,
        batch_size=config.batch_size,
    )
    shared = opened.shared
    segments, found = _open_segments(config, index, shared.of_audio), None
    if segments is not None:
        bounds = functools.partial(frame_bounds, opened.framed)
        found = SegmentScores(segments, bounds, accelerator.device)
    references = open_references(config, index)
    with scores_on_disk(
        opened.model,
        index,
        accelerator,
        folder=config.out,
        columns=shared.of_audio,
        batch_size=config.batch_size,
        loader=config.loader,
        on_frames=found.add if found else lambda places, probs: None,
    ) as scores:
        collectives.from_main(lambda: _check_finite(scores, index, what))
        in_time = None
        if segments is not None and found is not None:
            of_segments = found.sum_over_ranks()
            in_time = measure_segments(segments, of_segments, shared.of_audio)
        launch.leave_job(accelerator)  # nobody waits while rank 0 measures
        if scores is None:
            return None
        summary = _measure_and_write(config, index, shared, scores, references, in_time)
        if len(shared.classes) < len(index.classes):
            names = ", ".join(shared.classes.names)
            number = len(shared.classes)
            _log.info("%s: %d classes in common: %s", what, number, names)
        return summary


def _measure_and_write(
    config: EvaluateConfig,
    index: Index,
    shared: SharedClasses,
    scores: ScoreTable,
    references: References,
    in_time: SegmentMetrics | None,
) -> dict[str, Any]:
    """Measure scores [R, C] of all clips, write all files; metrics.json's content."""
    labels, classes = weak_labels(index), shared.classes
    if len(classes) < len(index.classes):
        labels = labels.of_classes(shared.of_audio)
    measured = measure(
        evaluate_scores(labels, scores),
        labels,
        scores,
        num_resamples=config.bootstrap,
        seed=config.bootstrap_seed,
    )
    others = {
        name: other.measure(scores, shared.of_audio, config)
        for name, other in references.others.items()
    }
    summary = summarise(config, index, measured, references, others, in_time)
    write_results(config.out, summary, classes, measured, others, in_time)
    if config.store_scores:
        write_table(config.out, index.table.key, classes.mids, labels, scores)
    return summary


def _check_finite(scores: ScoreFile | None, index: Index, what: str) -> None:
    """ValueError naming the first clip whose scores [R, C] are not all finite."""
    assert scores is not None, "rank 0 has them"
    broken = np.flatnonzero(~scores.is_finite)
    if len(broken):
        raise ValueError(
            f"{what}: {index.place(int(broken[0]))}: a score is not finite, and so it "
            f"is for {len(broken)} of {len(index)} clips; the model is broken"
        )


def _open_segments(
    config: EvaluateConfig, index: Index, columns: list[int]
) -> Segments | None:
    """The segments of the clips of ``index`` that the strong CSV names, if any.

    Classes ``columns`` are measured.
    """
    if config.strong is None:
        return None
    seconds = config.segment_seconds or SEGMENT_SECONDS
    events = open_events(config.strong, index, config.max_left_out, columns)
    overlap = config.min_overlap or default_overlap(seconds)
    return Segments.of(events, index, segment_seconds=seconds, min_overlap=overlap)


def run_evaluation(config: EvaluateConfig) -> dict[str, Any] | None:
    """Join the job and evaluate. Collective."""
    choose_arithmetic(config.arithmetic)
    return evaluate(config, launch.join_job())
