"""Weights that a run starts from.

Owns which tensors of a checkpoint a fresh model takes, and the record of that. The
source is a run or checkpoint of ours, a file of weights, or a model that transformers
can load. A classifier for other classes takes the rows of those that both have, by
mid, and stays new for the rest; everything else must fit.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from psl.models.config import ModelConfig
from psl.models.families import FAMILIES
from psl.weights.checkpoint import Checkpoint, load_checkpoint
from psl.weights.kinds import is_file_of_weights, is_hub_model
from psl.weights.published import Published, read_file_of_weights, read_huggingface
from psl.weights.tensors import tensors_sha256
from shards.format.classes import Classes
from shards.system.files import write_atomic

_log = logging.getLogger(__name__)

RECORD_NAME = "start.json"
_CONSTANTS = "front_end."
"""Tables that follow from the configuration, and are no weights."""


@dataclass(frozen=True)
class Source:
    """Weights under the names of one of our families."""

    where: str
    family: str
    weights: dict[str, Tensor]
    classes: Classes | None
    """What the classifier's outputs are; None for weights without a classifier of
    ours, or whose classes are not known."""
    config: ModelConfig | None = None
    """Of the model that had them; None where only its sizes are known."""
    checkpoint: Checkpoint | None = None
    """Of a run or a checkpoint folder."""


@dataclass(frozen=True)
class Taken:
    """What became of the tensors, by name."""

    taken: list[str]
    new: list[str]
    """Of the model: left as they were."""
    dropped: list[str]
    """Of the source: not used."""
    resized: list[str]
    """Of those taken: AST's table of places, cut or stretched to another length."""
    classes: list[str] = dataclasses.field(default_factory=list)
    """Mids whose rows of a classifier for other classes were taken."""

    def lines(self, where: str) -> list[str]:
        """For people: how many, and every name that was not simply taken."""
        head = f"{where}: {len(self.taken)} tensors taken"
        if self.classes:
            head += f", and the classifier's rows of {len(self.classes)} shared classes"
        kinds = {"new": self.new, "dropped": self.dropped, "resized": self.resized}
        return [head, *(f"  {kind}: {n}" for kind in kinds for n in kinds[kind])]


def open_source(path: str, config: ModelConfig) -> Source:
    """The weights of a run, a checkpoint folder, a file or a Hugging Face model.

    Raises ValueError or ShardError if they are not there, damaged, or of another family
    than ``config``.
    """
    if is_file_of_weights(path):
        source = _of_published(path, read_file_of_weights(path, config))
    elif Path(path).is_dir() and not is_hub_model(path):
        checkpoint = load_checkpoint(path)
        source = Source(
            where=str(checkpoint.folder),
            family=checkpoint.model_config.name,
            weights=checkpoint.weights,
            classes=checkpoint.classes,
            config=checkpoint.model_config,
            checkpoint=checkpoint,
        )
    else:
        source = _of_published(path, read_huggingface(path, config))
    if source.family != config.name:
        raise ValueError(
            f"start {path}: holds {source.family}, expected {config.name}; set "
            f"model.name={source.family}, or start from another"
        )
    return source


def _of_published(path: str, published: Published) -> Source:
    """Weights whose classes are not known.

    The files of PANNs and AST tell the features they were made for; those of other
    families do not, or are for images.
    """
    tells = published.family in ("ast", "cnn14")
    config = published.config if tells else None
    return Source(path, published.family, published.weights, None, config)


def take_weights(
    model: nn.Module, config: ModelConfig, source: Source, classes: Classes | None
) -> Taken:
    """Put the weights of ``source`` into ``model``, which is for ``classes``.

    Raises ValueError naming the first tensor that is missing, unknown or has another
    shape, besides the classifier's if the classes are others; and the features that the
    weights were made for, if the model's are others.

    Of a classifier for other classes, the rows of shared mids are taken: a student of
    ten of AudioSet's classes that starts from a tagger of all 527 knows them already.
    """
    _check_features(source, config)
    own = {n: t for n, t in model.state_dict().items() if not _is_constant(n)}
    theirs = {n: t for n, t in source.weights.items() if not _is_constant(n)}
    classifier = FAMILIES[config.name].classifier
    same = source.classes is not None and classes is not None
    same = same and source.classes.mids == classes.mids  # type: ignore[union-attr]
    kept = {n: t for n, t in theirs.items() if same or not n.startswith(classifier)}
    kept, resized = _resize_places(kept, own, config)
    new = sorted(own.keys() - kept.keys())
    unknown = sorted(kept.keys() - own.keys())
    problems = [f"{n} is missing" for n in new if same or not n.startswith(classifier)]
    problems += [f"{n} is unknown to the model" for n in unknown]
    problems += [
        f"{n} has shape {list(kept[n].shape)}, expected {list(own[n].shape)}"
        for n in sorted(own.keys() & kept.keys())
        if kept[n].shape != own[n].shape
    ]
    if problems:
        raise ValueError(
            f"start {source.where}: {problems[0]}"
            + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")
            + "; give the model the sizes that these weights have (model.*)"
        )
    mids: list[str] = []
    rows: dict[str, Tensor] = {}
    if not same and source.classes is not None and classes is not None:
        mids = [mid for mid in classes.mids if mid in source.classes.index_of]
        heads, new_heads = (
            {n: t for n, t in tensors.items() if n.startswith(classifier)}
            for tensors in (theirs, own)
        )
        if mids and heads.keys() == new_heads.keys():
            rows = _with_rows(heads, source.classes, new_heads, classes, mids)
    model.load_state_dict(kept | rows, strict=False)
    if rows and classes is not None and len(mids) == len(classes):
        new = [name for name in new if name not in rows]
    dropped = sorted(theirs.keys() - kept.keys() - rows.keys())
    return Taken(sorted(kept), new, dropped, resized, mids if rows else [])


def _with_rows(
    heads: Mapping[str, Tensor],
    theirs: Classes,
    new_heads: Mapping[str, Tensor],
    ours: Classes,
    mids: list[str],
) -> dict[str, Tensor]:
    """A new classifier with the rows of ``mids`` from another.

    Weights and biases have rows [C, ...], or [H * C, ...] of H attention heads; other
    tensors (PSLA's mix of the heads) know no class, and are taken whole.
    """
    to = [ours.index_of[mid] for mid in mids]
    of = [theirs.index_of[mid] for mid in mids]
    rows = {}
    for name, head in heads.items():
        if not name.endswith((".weight", ".bias")):
            rows[name] = head
            continue
        rows[name] = new_heads[name].clone()
        new = rows[name].unflatten(0, (-1, len(ours)))
        new[:, to] = head.unflatten(0, (-1, len(theirs)))[:, of].to(new)
    return rows


def _check_features(source: Source, config: ModelConfig) -> None:
    """ValueError with the words that give the model the front end of ``source``."""
    if source.config is None or source.config.front_end == config.front_end:
        return
    theirs, ours = map(dataclasses.asdict, (source.config.front_end, config.front_end))
    others = [n for n in ours if theirs[n] != ours[n]]
    words = " ".join(f"model.front_end.{n}={theirs[n]}" for n in others)
    found = ", ".join(f"{n} {ours[n]}" for n in others)
    raise ValueError(
        f"start {source.where}: its weights are for other features than the model's "
        f"({found}); set {words}"
    )


def start_from(
    path: str, model: nn.Module, config: ModelConfig, classes: Classes
) -> tuple[Source, Taken, dict[str, object]]:
    """Put the weights at ``path`` into ``model``; what was taken, and a record of it.

    Raises what ``open_source`` and ``take_weights`` do.
    """
    source = open_source(path, config)
    taken = take_weights(model, config, source, classes)
    sha256 = tensors_sha256(source.weights)
    return (
        source,
        taken,
        {
            "start": path,
            "taken_from": source.where,
            "weights_sha256": sha256,
            "model": source.config and dataclasses.asdict(source.config),
            **dataclasses.asdict(taken),
        },
    )


def write_record(run_dir: str | Path, taken: Taken, record: dict[str, object]) -> None:
    """Log what was taken, and keep it as start.json in the run folder."""
    _log.info("%s", "\n".join(taken.lines(f"start {record['start']}")))
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomic(Path(run_dir, RECORD_NAME), text)


def _is_constant(name: str) -> bool:
    return name.startswith(_CONSTANTS)


def _resize_places(
    theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], config: ModelConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """AST's table of places for the length of our windows: its middle, or stretched.

    As the AST paper does for ImageNet's (section 2.2); rows of frequency must agree.
    """
    result, name = dict(theirs), "ast.embeddings.position_embeddings"
    if config.name != "ast" or name not in theirs or name not in own:
        return result, []
    table, target = theirs[name], own[name]
    rows = (config.front_end.n_mels - 16) // config.frequency_stride + 1
    old, new = ((t.shape[1] - 2) // rows for t in (table, target))
    fits = (table.shape[1] - 2) % rows == 0 and table.shape[2] == target.shape[2]
    if old == new or not fits:
        return result, []
    grid = table[:, 2:].unflatten(1, (rows, old))
    if new < old:
        first = (old - new) // 2
        grid = grid[:, :, first : first + new]
    else:
        images = grid.permute(0, 3, 1, 2)
        images = nn.functional.interpolate(images, (rows, new), mode="bilinear")
        grid = images.permute(0, 2, 3, 1)
    result[name] = torch.cat([table[:, :2], grid.flatten(1, 2)], dim=1).contiguous()
    return result, [name]
