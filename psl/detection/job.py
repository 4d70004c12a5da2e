"""Find events in a dataset, write them, and measure them where the truth is known.

Owns the order of the work and the files in ``out``.
"""

from __future__ import annotations

import json
import logging

from accelerate import Accelerator

from psl.detection.config import EventsConfig
from psl.detection.decode import Rule, decode, fit_rules
from psl.detection.events import Events, ScoredClip
from psl.detection.events_file import audioset_table, desed_table
from psl.detection.measure import measure
from psl.detection.picture import draw_clip
from psl.detection.rules_file import read_rules, to_json
from psl.detection.scored import Scored, score_frames
from psl.distributed import launch
from psl.evaluation.event_lists import file_names
from psl.evaluation.results import check_out
from psl.weights.checkpoint import Checkpoint, load_checkpoint
from shards.format.classes import Classes, class_difference
from shards.system.files import write_atomic

_log = logging.getLogger(__name__)


def find_events(config: EventsConfig, accelerator: Accelerator) -> dict[str, object]:
    """Do what ``config`` says, and return what metrics.json holds."""
    if accelerator.num_processes > 1:
        raise ValueError("psl.events runs as one process; start it without a launcher")
    out = check_out(config.out)
    checkpoint = load_checkpoint(config.checkpoint)
    scored = score_frames(
        config, checkpoint, accelerator, audio=config.audio, strong=config.strong
    )
    clips, classes = scored.clips, scored.classes
    rules, how = _rules(config, checkpoint, accelerator, scored)
    found = [decode(clip.scores, clip.edges, rules) for clip in clips]
    summary: dict[str, object] = {
        "num_clips": len(clips),
        "num_found": sum(len(events) for events in found),
    }
    out.mkdir(parents=True, exist_ok=True)
    if scored.segments is not None:
        measured = measure(clips, rules, scored.segments)
        summary = {**measured.summary(), "num_found": summary["num_found"]}
        write_atomic(out / "per_class.csv", measured.per_class(classes))
        place = max(range(len(clips)), key=lambda n: len(clips[n].truth))
        draw_clip(out / "clip.png", clips[place], found[place], classes)
    write_atomic(out / "rules.json", to_json(rules, classes, how))
    write_atomic(out / "events.tsv", _table(config, clips, found, classes))
    text = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    write_atomic(out / "metrics.json", text)
    return summary


def _rules(
    config: EventsConfig,
    checkpoint: Checkpoint,
    accelerator: Accelerator,
    scored: Scored,
) -> tuple[list[Rule], dict[str, object]]:
    """The rule of each class, and where it is from."""
    classes = scored.classes
    if config.rules is not None:
        return read_rules(config.rules, classes), {"read_from": config.rules}
    base = Rule(
        config.threshold,
        config.median_seconds,
        config.min_seconds,
        config.max_gap_seconds,
    )
    if config.fit_audio is None:
        return [base] * len(classes), {"given": True}
    fit = score_frames(
        config,
        checkpoint,
        accelerator,
        audio=config.fit_audio,
        strong=config.fit_strong,
    )
    if fit.classes.mids != classes.mids:
        raise ValueError(
            f"{config.fit_audio}: not the classes of {config.audio}: "
            f"{class_difference(fit.classes.mids, classes.mids)}; "
            "pack both with one class list"
        )
    keys = {clip.key for clip in scored.clips}
    if shared := sum(clip.key in keys for clip in fit.clips):
        _log.warning(
            "%s: %d of %d clips are clips of %s, too: its numbers will be too good",
            *(config.fit_audio, shared, len(fit.clips), config.audio),
        )
    rules = fit_rules(fit.clips, len(classes), measure=config.fit_for, base=base)
    has_events = {label for clip in fit.clips for label in clip.truth.label.tolist()}
    unfitted = [mid for c, mid in enumerate(classes.mids) if c not in has_events]
    if unfitted:
        _log.warning(
            "%s: no event of %d of %d classes, such as %s; their rules are not fitted",
            *(config.fit_strong, len(unfitted), len(classes), unfitted[0]),
        )
    how = {"fitted_to": config.fit_audio, "for": config.fit_for}
    return rules, {**how, "not_fitted": unfitted}


def _table(
    config: EventsConfig,
    clips: list[ScoredClip],
    found: list[Events],
    classes: Classes,
) -> str:
    """The content of events.tsv."""
    if config.form == "audioset":
        return audioset_table(clips, found, classes)
    named = file_names(config.strong, classes) if config.strong else {}
    return desed_table(clips, found, classes, named)


def run(config: EventsConfig) -> dict[str, object]:
    """Join the job and find events."""
    accelerator = launch.join_job()
    summary = find_events(config, accelerator)
    launch.leave_job(accelerator)
    return summary
