"""Weights that others published -> a checkpoint folder of ours.

What the command psl.import_checkpoint does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from psl.models.config import ModelConfig
from psl.models.families import FAMILIES, build_from_config
from psl.teachers.origin import IMPORTED
from psl.weights.checkpoint import TrainingState, save_checkpoint
from psl.weights.kinds import is_file_of_weights
from psl.weights.published import Published, read_file_of_weights, read_huggingface
from shards.format.classes import Classes, read_classes

FIT_ADVICE = "give the class list of the file, or --partial to leave those at random"
"""Of psl.import_checkpoint, for tensors that do not fit."""


def import_weights(source: str, out: Path, class_list: str, *, partial: bool) -> None:
    """Write the weights at ``source`` as a checkpoint, and print what became of each.

    Raises ValueError if they do not fit the model and the classes.
    """
    classes = read_classes(class_list)
    published = read(source)
    convert(published, out, classes, source=source, where=source, partial=partial)
    print(f"{out}: {FAMILIES[published.family].config.__name__}, ready")


def convert(
    published: Published,
    out: Path,
    classes: Classes,
    *,
    source: str,
    where: str,
    partial: bool = False,
    advice: str = FIT_ADVICE,
) -> None:
    """Write ``published`` as a checkpoint that says it is from ``source``.

    Raises ValueError with ``advice`` if tensors do not fit.
    """
    check_labels(published, classes, where)
    torch.manual_seed(0)
    model = build_from_config(published.config, len(classes))
    fill(model, published, where=where, partial=partial, advice=advice)
    save(out, model, published.config, classes, source)


def read(path: str) -> Published:
    """The weights at ``path`` under our names; ValueError if they are none of those."""
    if is_file_of_weights(path):
        return read_file_of_weights(path)
    published = read_huggingface(path)
    if published.family != "ast":
        raise ValueError(
            f"{path}: a classifier of images; train from it with start={path} instead"
        )
    return published


def fill(
    model: nn.Module,
    published: Published,
    *,
    where: str,
    partial: bool,
    advice: str,
) -> None:
    """Load the weights into ``model``, and print each tensor that is not as it was.

    Raises ValueError with ``advice`` if any is missing, unknown or of another shape,
    unless ``partial``, which leaves those of the model as they are.
    """
    own = {n: t for n, t in model.state_dict().items() if not n.startswith("front_end")}
    theirs, constants = dict(published.weights), dict[str, Tensor]()
    for name in [n for n in theirs if n.startswith("front_end")]:
        constants[name] = theirs.pop(name)
    unknown = sorted(theirs.keys() - own.keys())
    shapes = sorted(
        n for n in theirs.keys() & own.keys() if theirs[n].shape != own[n].shape
    )
    missing = sorted(own.keys() - theirs.keys())
    lines = [f"renamed  {old} -> {new}" for old, new in published.renamed.items()]
    lines += [f"dropped  {name}" for name in [*published.dropped, *constants]]
    lines += [f"unknown  {name}: not used" for name in unknown]
    lines += [
        f"shape    {n}: {list(theirs[n].shape)}, not {list(own[n].shape)}: not used"
        for n in shapes
    ]
    lines += [f"missing  {name}: left at random" for name in missing]
    for line in lines:
        print(line)
    if (bad := len(unknown) + len(shapes) + len(missing)) and not partial:
        raise ValueError(
            f"{where}: {bad} tensors do not fit (listed above), expected all; {advice}"
        )
    fitting = {n: t for n, t in theirs.items() if n in own and n not in shapes}
    model.load_state_dict(fitting, strict=False)
    print(f"{len(fitting)} of {len(own)} tensors taken")


def check_labels(published: Published, classes: Classes, where: str) -> None:
    """ValueError unless the file's own names of outputs, if any, are the classes'."""
    if published.labels is None:
        return
    for number, (found, name, mid) in enumerate(
        zip(published.labels, classes.names, classes.mids, strict=False)
    ):
        if found.strip() not in (name.strip(), mid):
            raise ValueError(
                f"{where}: output {number} is {found!r}, but --classes has {name!r} "
                "there; give its own class list"
            )


def save(
    out: Path, model: nn.Module, config: ModelConfig, classes: Classes, source: str
) -> None:
    """Write the checkpoint folder, as of a run that has not taken a step."""
    if out.exists():
        raise ValueError(f"{out}: exists; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    state = TrainingState(0, 0, (), f"{IMPORTED}{source}")
    save_checkpoint(
        out,
        model=model,
        optimizer={},
        model_config=config,
        classes=classes,
        training=state,
    )
