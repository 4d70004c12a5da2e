"""Score a dataset's clips with a checkpoint and measure.

Owns exactly-once scoring at any world size, and what is measured.
"""

from __future__ import annotations

import functools
import json
import logging

import numpy as np
from accelerate import Accelerator

from psl.data.checks import check_has_labels
from psl.distributed import launch
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.measured import measure
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.opened import open_model
from psl.evaluation.references import open_references, weak_labels
from psl.evaluation.results import summarise, write_results
from psl.evaluation.scoring import score_clips
from psl.evaluation.segment_scores import SegmentScores
from psl.evaluation.segments import (
    SEGMENT_SECONDS,
    Segments,
    default_overlap,
    measure_segments,
)
from psl.evaluation.stored import StoredScores, write_scores
from psl.evaluation.strong import open_events
from psl.evaluation.windows import frame_bounds
from psl.weights.checkpoint import load_checkpoint
from shards.format.index import Index, open_index

_log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, accelerator: Accelerator) -> Metrics:
    """Evaluate a checkpoint and write the results. Collective."""
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
    scores = score_clips(
        opened.model,
        index,
        accelerator,
        batch_size=config.batch_size,
        loader=config.loader,
        on_frames=found.add if found else lambda places, probs: None,
    )
    targets = weak_labels(index)
    if len(shared.classes) < len(index.classes):
        scores, targets = scores[:, shared.of_audio], targets[:, shared.of_audio]
    _check_finite(scores, index, what)
    in_time = None
    if segments is not None and found is not None:
        in_time = measure_segments(segments, found.sum_over_ranks(), shared.of_audio)
    metrics = evaluate_scores(targets, scores)
    if accelerator.is_main_process:
        measured = measure(
            metrics,
            targets,
            scores,
            num_resamples=config.bootstrap,
            seed=config.bootstrap_seed,
        )
        others = {
            name: labels.measure(scores, shared.of_audio, config)
            for name, labels in references.others.items()
        }
        summary = summarise(config, index, measured, references, others, in_time)
        write_results(config.out, summary, shared.classes, measured, others, in_time)
        if config.store_scores:
            keys, mids = index.table.key, shared.classes.mids
            write_scores(config.out, StoredScores(keys, mids, targets, scores))
        if len(shared.classes) < len(index.classes):
            names = ", ".join(shared.classes.names)
            _log.info("%s: %d classes in common: %s", what, len(shared.classes), names)
        print(json.dumps(summary, allow_nan=False))
    return metrics


def _check_finite(scores: np.ndarray, index: Index, what: str) -> None:
    """ValueError naming the first clip whose scores [R, C] are not all finite."""
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(
            f"{what}: {index.place(row)}: a score is not finite, and so it is for "
            f"{int((~finite).sum())} of {len(scores)} clips; the model is broken"
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


def run_evaluation(config: EvaluateConfig) -> None:
    """Join the job and evaluate. Collective."""
    accelerator = launch.join_job()
    evaluate(config, accelerator)
    launch.leave_job(accelerator)
