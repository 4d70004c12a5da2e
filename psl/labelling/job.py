"""A teacher over audio shards -> label shards.

Owns the labelling job: one label shard per audio shard, whole or absent, skipped when
done. Any number of processes on any machines that share the folder take shards by
claims (shards/system/claims.py), join and leave at will, and need no process group; the
one that finds all done writes the index. Batches never cross a shard, so what a shard
holds does not depend on how many processes run, or how often they were killed.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from psl.data.batch import Prepared
from psl.data.labels import LabelLayout
from psl.data.loader import cache_share, open_cache
from psl.distributed import runtime
from psl.distributed.arithmetic import choose_arithmetic
from psl.job.stop import StopRequest, name_of
from psl.labelling import progress
from psl.labelling.calibration_file import DIGITS, Calibration, read_calibration
from psl.labelling.config import LabelConfig, label_hearing, label_layout
from psl.labelling.hearing import hearing_facts
from psl.labelling.repair import reopen_damaged, say_what_changed
from psl.labelling.unlabelled import check_report, forget_noted, too_many
from psl.labelling.worker import Score, ShardQueue, ShardWorker, Work
from psl.teachers.load import Ensemble, Teacher, load_teacher
from shards import __version__
from shards.dataset.prefetch import Prefetcher
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder
from shards.format.index import INDEX_NAME, Index, open_index
from shards.system.claims import Claims
from shards.system.exits import EXIT_PREEMPTED, JobError

_log = logging.getLogger(__name__)


WAIT_SECONDS = 0.1
"""Between looks for a signal while other processes work."""


@dataclass(frozen=True)
class Outcome:
    """What a labelling process leaves behind; as text, a line for people."""

    out: str
    """The label dataset."""
    num_clips: int
    """Clips of the audio."""
    is_complete: bool
    """Whether the dataset is finished, by whatever process."""
    was_complete: bool = False
    """Whether it was already when the process came."""

    def __str__(self) -> str:
        if self.was_complete:
            return f"{self.out}: already labelled with these settings"
        if self.is_complete:
            return f"{self.out}: labels of {self.num_clips} clips are complete"
        return f"{self.out}: this process is done, other shards are still missing"


def label(config: LabelConfig, stop: StopRequest | None = None) -> Outcome:
    """Label shards until none is left.

    Whichever process finds all shards done publishes the index. Shards that a finished
    dataset has lost are made again. Raises ShardError or ValueError if teacher, audio
    and ``out`` do not fit each other, or a clip cannot be labelled, JobError when asked
    to ``stop``.
    """
    return label_shards(config, open_work(config), stop)


def open_work(config: LabelConfig) -> Work:
    """What is labelled with what, loaded and checked; nothing is written yet.

    Raises ShardError or ValueError if teacher and audio do not fit each other.
    """
    config.loader.check_no_transcode("labelling")
    choose_arithmetic(config.arithmetic)
    index = open_index(config.audio, kind="audio")
    cache = open_cache(config.loader)
    teacher = load_teacher(config.teacher, index, cache=cache)
    layout, hearing = label_layout(config, index), label_hearing(config, index)
    calibration = None
    if config.calibration is not None:
        calibration = read_calibration(config.calibration, index.classes)
        calibration.check(
            {
                "teacher_sha256": teacher.identity,
                "chunk_seconds": round(config.chunk_seconds, DIGITS),
                **_heard(config),
            },
            config.calibration,
        )
    device = runtime.local_device()
    if device.type == "cpu":
        runtime.keep_freed_memory()
    runtime.move_model(teacher.model, device)
    return Work(
        reader=MemberReader(index, cache),
        layout=layout,
        builder=_builder(config, index, teacher, layout, calibration),
        score=_score(teacher.model, config),
        device=device,
        batch_size=config.batch_size,
        loader=config.loader,
        blame=teacher.blame,
        calibration=calibration,
        hearing=hearing,
        max_unreadable=math.floor(config.max_unlabelled * len(index)),
        prepare=teacher.model.prepare if teacher.model.has_features else None,
    )


def label_shards(
    config: LabelConfig, work: Work, stop: StopRequest | None = None
) -> Outcome:
    """What ``label`` does once all is loaded."""
    stop = stop or StopRequest(config.out, watch_file=False)
    index, builder = work.reader.index, work.builder
    lost = reopen_damaged(
        builder, lease_seconds=config.lease_seconds, is_stopped=lambda: stop.is_made
    )
    _check_stop(config, stop)
    outcome = Outcome(config.out, len(index), is_complete=True)
    if not builder.begin():
        builder.publish(work.names)  # clears away what a killed process left
        return replace(outcome, was_complete=True)
    progress.note_job(builder, index)
    stop.defer()
    with (
        builder.unless_published(),
        Claims(builder.parts_folder, lease_seconds=config.lease_seconds) as claims,
    ):
        _work_until_done(config, work, claims, stop)
    if builder.is_published() and builder.publish(work.names):  # which now clears away
        say_what_changed(builder.folder, lost)
        return outcome
    return replace(outcome, is_complete=False)


def _check_stop(config: LabelConfig, stop: StopRequest) -> None:
    """JobError if this process was asked to stop."""
    if stop.is_made:
        raise JobError.ending_with(
            EXIT_PREEMPTED,
            f"{config.out}: stopped by {name_of(stop.reason)}; run the same command "
            "again to continue",
        )


def _heard(config: LabelConfig) -> dict[str, Any]:
    return hearing_facts(config.context_seconds, config.fill, config.fill_seconds)


def _builder(
    config: LabelConfig,
    index: Index,
    teacher: Teacher,
    layout: LabelLayout,
    calibration: Calibration | None,
) -> DatasetBuilder:
    return DatasetBuilder(
        folder=Path(config.out),
        kind="labels",
        classes=index.classes,
        properties={
            **layout.properties,
            "sample_rate": index.properties["sample_rate"],
        },
        provenance={
            "labelled_by": f"psl {__version__}",
            "teacher_sha256": teacher.identity,
            "teachers": teacher.members,
            "audio_fingerprint": index.fingerprint,
            "batch_size": config.batch_size,  # other sizes round otherwise
            "precision": config.precision,
            "compile": config.compile,
            **({} if config.arithmetic.tf32 else {"tf32": False}),
            **_heard(config),
            **({"calibration": calibration.provenance} if calibration else {}),
        },
    )


def _score(teacher: Ensemble, config: LabelConfig) -> Score:
    """What gives the probabilities [B, C] float32 of a batch of chunks."""
    if config.compile:
        teacher.compile_for(config.batch_size)

    def score(waveform: Tensor, lengths: Tensor, prepared: Prepared | None) -> Tensor:
        device = waveform.device.type
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16"),
        ):
            clip_probs: Tensor = teacher(waveform, lengths, prepared)
        return clip_probs

    return score


def _work_until_done(
    config: LabelConfig, work: Work, claims: Claims, stop: StopRequest
) -> None:
    """Label what is free, take over from the dead, and publish when all is done."""
    index, builder = work.reader.index, work.builder
    sizes = {shard.name: shard.num_clips for shard in index.shards}
    queue = ShardQueue(work.names, builder, claims)
    bar = tqdm(
        total=len(index),
        initial=sum(sizes[name] for name in builder.recorded() & sizes.keys()),
        unit="clip",
        desc=f"label {Path(config.out).name}",
        disable=runtime.rank_and_world_size()[0] != 0,
    )
    with bar, Prefetcher([work.reader], cache_share(config.loader)) as prefetcher:
        worker = ShardWorker(
            work,
            queue,
            claims,
            prefetcher=prefetcher,
            stop=stop,
            on_written=bar.update,
        )
        while not builder.is_published():
            worker.run()
            _check_stop(config, stop)
            if worker.has_too_many_unreadable:
                forget_noted(builder, work.names)
                found = list(worker.unreadable.values())
                raise too_many(len(found), len(index), config.audio, found[-1])
            # the queue's look may be older than the last write, which ends the wait
            if queue.all_done or (
                not config.wait and builder.recorded() >= sizes.keys()
            ):
                _publish(config, work, claims, stop)
            elif not config.wait:
                return
            claims.progress()
            time.sleep(WAIT_SECONDS)


def _publish(
    config: LabelConfig, work: Work, claims: Claims, stop: StopRequest
) -> None:
    """Write the index, unless another process is about to, or a shard is damaged."""
    builder, index = work.builder, work.reader.index
    claim = claims.take(INDEX_NAME)
    if claim is None:
        return
    try:
        whole = []
        for name in work.names:
            part = builder.part(name)
            if part and builder.is_intact(part):
                whole.append(part)
            else:  # the next look finds it undone
                _log.warning("%s: not as its record says; labelled again", name)
                builder.forget(name)
            claims.progress()
            if stop.is_made:
                return
        if len(whole) < len(work.names):
            return
        check_report(builder, whole, config.max_unlabelled, len(index))
        progress.note_made(builder, audio=config.audio, calibration=work.calibration)
        builder.publish(work.names)
    finally:
        claim.release()


def run_labelling(config: LabelConfig) -> None:
    """Label, as one process of the job, until there is no more to do."""
    stop = StopRequest(config.out, watch_file=False)
    stop.listen(at_once=True)
    try:
        print(label(config, stop))
    finally:
        stop.restore()
