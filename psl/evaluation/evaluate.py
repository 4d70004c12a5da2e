"""Score a dataset's clips with a checkpoint and measure.

Owns exactly-once scoring at any world size, and what is measured.
"""

from __future__ import annotations

import json
import logging

import numpy as np
from accelerate import Accelerator
from torch import nn

from psl.data.checks import check_has_labels, check_rate
from psl.distributed import launch, runtime
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.measured import measure
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.references import open_references, weak_labels
from psl.evaluation.results import summarise, write_results
from psl.evaluation.scoring import MIN_SECONDS, score_clips
from psl.evaluation.segments import Segments, SegmentScores, measure_segments
from psl.evaluation.shared_classes import InClassesOfAudio, share_classes
from psl.evaluation.stored import StoredScores, write_scores
from psl.evaluation.true_events import read_events
from psl.evaluation.windows import WindowedModel, frame_bounds
from psl.weights.checkpoint import Checkpoint, check_checkpoint_fits, load_checkpoint
from shards.format.chunking import Chunking
from shards.format.index import Index, open_index

_log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, accelerator: Accelerator) -> Metrics:
    """Evaluate a checkpoint and write the results. Collective."""
    index = open_index(config.audio, kind="audio")
    checkpoint = load_checkpoint(config.checkpoint)
    check_has_labels(index, "evaluate against")
    _check_fits(config, index, checkpoint)
    what = f"{checkpoint.folder} on {index.where}"
    shared = share_classes(index.classes, checkpoint.classes, what=what)
    segments = _open_segments(config, index)
    bare = checkpoint.build_model()
    model = runtime.move_model(
        InClassesOfAudio(bare, shared, len(index.classes)), accelerator.device
    ).eval()
    windowed = _in_windows(config, model, index)
    found = None
    if segments is not None:
        framed = bare if windowed is model else windowed
        found = SegmentScores(
            segments, lambda length: frame_bounds(framed, length), accelerator.device
        )
    references = open_references(config, index)
    scores = score_clips(
        windowed,
        index,
        accelerator,
        batch_size=config.batch_size,
        loader=config.loader,
        on_frames=found.add if found else lambda places, probs: None,
    )
    in_time = None
    if segments is not None and found is not None:
        in_time = measure_segments(segments, found.sum_over_ranks(), shared.of_audio)
    targets = weak_labels(index)
    if len(shared.classes) < len(index.classes):
        scores, targets = scores[:, shared.of_audio], targets[:, shared.of_audio]
    _check_finite(scores, index, what)
    metrics = evaluate_scores(targets, scores)
    if accelerator.is_main_process:
        measured = measure(metrics, targets, scores, config)
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


def _check_fits(config: EvaluateConfig, index: Index, checkpoint: Checkpoint) -> None:
    """ValueError unless the model can hear the audio, and its classes are allowed."""
    if config.classes == "same":
        check_checkpoint_fits(index, checkpoint)
    else:
        rate = checkpoint.model_config.front_end.sample_rate
        check_rate(index, sample_rate=rate, what=str(checkpoint.folder))


def _in_windows(config: EvaluateConfig, model: nn.Module, index: Index) -> nn.Module:
    """``model``, asked about windows if the configuration says so."""
    if config.window_seconds is None:
        return model
    rate = index.properties["sample_rate"]
    chunking = Chunking.from_seconds(config.window_seconds, rate, config.hop_seconds)
    longest = int(index.table.count.max(initial=1))
    return WindowedModel(
        model,
        chunking,
        shortest_samples=round(MIN_SECONDS * rate),
        # about as much audio as a batch of whole clips
        windows_at_a_time=max(
            config.batch_size, config.batch_size * longest // chunking.chunk_samples
        ),
    )


def _open_segments(config: EvaluateConfig, index: Index) -> Segments | None:
    """The segments of the clips of ``index`` that the strong CSV names, if any."""
    if config.strong is None:
        return None
    seconds = config.segment_seconds or 1.0
    events = read_events(
        config.strong,
        index,
        max_left_out=config.max_left_out or 0.0,
        option="max_left_out=",
    )
    left_out = sum(events.unknown.values()) + events.num_outside
    if left_out:
        _log.warning("%s: %d events left out", config.strong, left_out)
    overlap = config.min_overlap or min(0.25, seconds / 4)
    return Segments.of(events, index, segment_seconds=seconds, min_overlap=overlap)


def run_evaluation(config: EvaluateConfig) -> None:
    """Join the job and evaluate. Collective."""
    accelerator = launch.join_job()
    evaluate(config, accelerator)
    launch.leave_job(accelerator)
