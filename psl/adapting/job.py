"""A trained model and own sounds -> a model of own classes.

Owns the order of the work and the folder that it makes: a run folder like that of
psl.train, with the reports of report.py beside the checkpoint.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from psl.adapting.embedded import Embedded, embed_sounds
from psl.adapting.finetune import EPOCHS, finetune_run
from psl.adapting.heads import (
    PENALTIES,
    Crossed,
    Head,
    Windows,
    cross_validate,
    fit,
    folds_of,
)
from psl.adapting.report import MEANING, Report, make_report, write_report_files
from psl.adapting.request import HEADS_NAME, check_request
from psl.adapting.sounds import Sounds, collect
from psl.distributed.runtime import move_model
from psl.job.status import ended, started, write_status
from psl.models.config import ModelConfig
from psl.models.embedding import last_layer, with_last_layer, with_mean_pooling
from psl.teachers.named import checkpoint_of
from psl.teachers.origin import write_origin
from psl.weights.checkpoint import (
    Checkpoint,
    TrainingState,
    checkpoint_folder,
    load_checkpoint,
    save_checkpoint,
)
from psl.weights.result import Result, write_result
from shards.format.classes import Classes
from shards.system.files import folder_atomic

_log = logging.getLogger(__name__)

_DEFAULT_PENALTY = PENALTIES[4]
"""Where nothing can be held out."""


@dataclass(frozen=True)
class Adapted:
    """What adapt made."""

    folder: Path
    """Where psl.load finds the model."""
    mean_ap: float | None
    """mAP of the new heads by cross validation, in [0, 1]; None where no class has two
    recordings. Of the heads alone, also with finetune."""
    ap: dict[str, float]
    """The same for each class that has two recordings or more."""
    num_rejected: int
    """Sounds that could not be used; rejected.csv lists them."""


def adapt(
    model: str | Path,
    sounds: str | Path | None = None,
    *,
    out: str | Path,
    background: str | Path | None = None,
    labelled: str | Path | None = None,
    keep_old_classes: bool = False,
    finetune: bool = False,
    epochs: int | None = None,
    seconds: float = 2.0,
    device: str | torch.device | None = None,
) -> Adapted:
    """Teach a trained model classes of your own from a few examples of each.

    ``model`` is a run or checkpoint folder, or the name of a fetched teacher.
    ``sounds`` is a folder with a folder of audio files for each class, ``labelled`` a
    table of psl.suggest with labels filled in; one of them is needed. ``background``
    is a folder of sounds that are none of the classes. The model hears windows of
    ``seconds``. Its new last layer is in ``out``, a run folder for psl.load, psl.tag,
    psl.export and the rest; with ``finetune`` all layers are trained from there, for
    ``epochs`` at most (30 if None).

    >>> psl.adapt("mn04", "sounds", out="runs/own").mean_ap
    0.97

    Raises ShardError for sounds that cannot be used, ValueError for settings that
    cannot be.
    """
    check_request(
        model,
        out,
        places=(sounds, labelled, background),
        seconds=seconds,
        keep=keep_old_classes,
        finetune=finetune,
    )
    checkpoint = load_checkpoint(checkpoint_of(str(model)))
    _check_keeping(checkpoint, keep=keep_old_classes)
    found = collect(folders=sounds, background=background, table=labelled)
    classes = _all_classes(checkpoint, found, keep=keep_old_classes)
    target = Path(out, HEADS_NAME) if finetune else Path(out)
    embedded, report = _make_heads(
        checkpoint,
        found,
        target,
        classes=classes,
        seconds=seconds,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    if finetune:
        finetune_run(
            target,
            Path(out),
            embedded,
            classes=classes,
            seconds=seconds,
            epochs=epochs or EPOCHS,
        )
    return Adapted(Path(out), report.mean_ap, dict(report.ap), len(embedded.rejected))


def _check_keeping(checkpoint: Checkpoint, *, keep: bool) -> None:
    if keep and checkpoint.model_config != with_mean_pooling(checkpoint.model_config):
        raise ValueError(
            f"{checkpoint.folder}: its classes have weights over frames (pooling="
            "attention), which adapting replaces; leave out keep_old_classes"
        )


def _all_classes(checkpoint: Checkpoint, sounds: Sounds, *, keep: bool) -> Classes:
    """The classes of the new model. ValueError if a new one is an old one, too."""
    if not keep:
        return Classes(sounds.names, sounds.names)
    old = checkpoint.classes
    known = {text.casefold() for text in (*old.mids, *old.names)}
    for name in sounds.names:
        if name.casefold() in known:
            raise ValueError(
                f"class {name!r} is one of the model's; rename the folder, or leave "
                "out keep_old_classes"
            )
    return Classes((*old.mids, *sounds.names), (*old.names, *sounds.names))


def _make_heads(
    checkpoint: Checkpoint,
    sounds: Sounds,
    out: Path,
    *,
    classes: Classes,
    seconds: float,
    device: str | torch.device,
) -> tuple[Embedded, Report]:
    """Fit the heads and write ``out``."""
    rate = checkpoint.model_config.front_end.sample_rate
    model = move_model(checkpoint.build_model(), torch.device(device))
    embedded = embed_sounds(model, sounds, sample_rate=rate, seconds=seconds)
    windows = _windows(embedded, len(sounds.names))
    crossed = _cross_validate(windows, embedded, sounds)
    penalty = _DEFAULT_PENALTY if crossed is None else crossed.penalty
    head = fit(windows, penalty)
    report = make_report(sounds, embedded, windows.targets, crossed)
    _write(
        out,
        checkpoint,
        _whole_head(checkpoint, head, len(classes)),
        classes=classes,
        report=report,
        facts={"model": str(checkpoint.folder), "seconds": seconds, "penalty": penalty},
    )
    return embedded, report


def _windows(embedded: Embedded, num_classes: int) -> Windows:
    targets = torch.zeros(len(embedded.examples), num_classes)
    for row, example in enumerate(embedded.examples):
        if example.label is not None:
            targets[row, example.label] = 1
    return Windows(embedded.embedding, embedded.example_of, targets)


def _cross_validate(
    windows: Windows, embedded: Embedded, sounds: Sounds
) -> Crossed | None:
    """Cross validation by recording; warns of the classes that it leaves out."""
    examples = embedded.examples
    groups = [example.group for example in examples]
    folds = folds_of([example.label for example in examples], groups)
    for label, name in enumerate(sounds.names):
        of_class = {
            g for e, g in zip(examples, groups, strict=True) if e.label == label
        }
        if len(of_class) < 2:
            _log.warning(
                "class %r: sounds of one recording alone; cross validation leaves it "
                "out, so nothing is known of how well it is recognised",
                name,
            )
    return cross_validate(windows, folds)


def _whole_head(checkpoint: Checkpoint, head: Head, num_classes: int) -> Head:
    """``head``, below the old one where its classes are kept."""
    if len(head.bias) == num_classes:
        return head
    name = last_layer(checkpoint.model_config)
    old: list[Tensor] = [
        checkpoint.weights[f"{name}.{part}"].float() for part in ("weight", "bias")
    ]
    return Head(torch.cat([old[0], head.weight]), torch.cat([old[1], head.bias]))


def _write(
    out: Path,
    checkpoint: Checkpoint,
    head: Head,
    *,
    classes: Classes,
    report: Report,
    facts: dict[str, object],
) -> None:
    """The run folder, under its name only when it is whole."""
    config: ModelConfig = with_mean_pooling(checkpoint.model_config)
    with folder_atomic(out) as aside:
        folder = checkpoint_folder(aside, 0)
        save_checkpoint(
            folder,
            model=with_last_layer(config, checkpoint.weights, head.weight, head.bias),
            optimizer={},
            model_config=config,
            classes=classes,
            training=TrainingState(
                epoch=0,
                step_in_epoch=0,
                history=(),
                plan_fingerprint=f"adapted from {checkpoint.model_sha256}",
            ),
        )
        facts |= {"model_sha256": checkpoint.model_sha256}
        write_report_files(aside, report, facts)
        write_origin(aside, checkpoint)
        if report.mean_ap is not None:
            write_result(aside, Result(folder.name, report.mean_ap, 0, MEANING))
        message = f"adapted from {checkpoint.folder}"
        write_status(aside, ended(started(None, 0), "done", message))
