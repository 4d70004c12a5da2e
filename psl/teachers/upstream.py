"""Checkpoint files of the published PSL code, and files with the same names.

Owns what such a file may hold: tensors, under the names of our MobileNetV2, which are
upstream's, whatever program saved them. psl/weights/files.py knows the forms.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from psl.models.config import MobileNetV2Config
from psl.models.families import build_model
from psl.teachers.config import TeacherConfig
from psl.teachers.member import Member, match_stated
from psl.teachers.named import teachers_folder
from psl.weights.files import MAX_BYTES, parse_weights, read_file
from psl.weights.published import UPSTREAM_NAMES
from psl.weights.tensors import MAX_NAMED, find_weights, tensors_sha256
from shards.dataset.cache import ShardCache
from shards.errors import ShardError
from shards.format.classes import Classes, read_classes
from shards.remote.places import check_place, is_url, read_url
from shards.system.files import read_bounded, sha256_of, write_atomic

_log = logging.getLogger(__name__)

_HEAD = "classifier.1.weight"


class ClipProbs(nn.Module):
    """The clip probabilities of one of our models, alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """[B, C] clip probabilities."""
        return self.model(waveform, lengths)[0]


def load(config: TeacherConfig, classes: Classes, cache: ShardCache) -> Member:
    """The model of a file or URL; what is fetched by its sha256 is kept.

    Raises ShardError if the file is not there, damaged or not the one of ``sha256``,
    ValueError if it is not such a model, or not for these classes.
    """
    where = f"teacher {config.path}"
    content = parse_weights(_read(config, cache), where)
    found = find_weights(content, where, known=UPSTREAM_NAMES)
    weights = found.weights
    if _HEAD not in weights or weights[_HEAD].dim() != 2:
        raise ValueError(
            f"{where}: no tensor {_HEAD} of two dimensions among {len(weights)}, such "
            f"as {', '.join(sorted(weights)[:MAX_NAMED])}; expected a state_dict with "
            "the names of upstream's MobileNetV2 (psl.import_checkpoint takes those of "
            "PANNs and AST)"
        )
    found.announce(where)
    num_outputs = len(weights[_HEAD])
    stated = classes if config.classes is None else read_classes(config.classes)
    columns = match_stated(stated, num_outputs, classes, where=where)
    return Member(
        model=ClipProbs(_build(weights, num_outputs, where)),
        sample_rate=MobileNetV2Config().front_end.sample_rate,
        columns=columns,
        identity={
            "kind": "upstream",
            "weights_sha256": tensors_sha256(weights),
            "outputs_sha256": stated.sha256,
        },
    )


def _read(config: TeacherConfig, cache: ShardCache) -> bytes:
    """The bytes of the file, checked."""
    place = check_place(config.path)
    kept = None
    if is_url(place) and config.sha256:  # without, the server's may be another by now
        kept = teachers_folder(cache.folder) / config.sha256
    if kept and (whole := _read_kept(kept, str(config.sha256))) is not None:
        return whole
    if not is_url(place):
        data = read_file(place)
    else:
        data = read_url(place, max_bytes=MAX_BYTES, retry=cache.retry)
    if config.sha256 and (found := sha256_of(data)) != config.sha256:
        raise ShardError(
            f"teacher {config.path}: sha256 is {found}, expected {config.sha256}; "
            "fetch the right file, or correct teacher.sha256"
        )
    if kept:
        write_atomic(kept, data)
    return data


def _read_kept(path: Path, sha256: str) -> bytes | None:
    """The bytes of a file that was fetched before; None if it is not, or not whole."""
    if not path.exists():
        return None
    try:
        data = read_bounded(path, MAX_BYTES)
        wrong = None if sha256_of(data) == sha256 else "damaged"
    except ShardError as error:
        wrong = str(error)
    if wrong is None:
        return data
    _log.warning("%s: %s; fetching it again", path, wrong)
    return None


def _build(weights: Mapping[str, Tensor], num_outputs: int, where: str) -> nn.Module:
    """The model with these weights; constants of the front end may be missing."""
    model = build_model("mobilenetv2", num_classes=num_outputs)
    own = model.state_dict()
    missing = sorted(n for n in own.keys() - weights.keys() if _is_weight(n))
    if missing or (unknown := sorted(weights.keys() - own.keys())):
        which, names = ("missing", missing) if missing else ("unknown", unknown)
        raise ValueError(
            f"{where}: {len(names)} names are {which}, such as {names[0]}; expected "
            "those of upstream's MobileNetV2"
        )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{where}: {name} has shape {list(tensor.shape)}, expected "
                f"{list(own[name].shape)}; only upstream's sizes and front end "
                "(16 kHz, 64 mels) can be loaded"
            )
    model.load_state_dict({**own, **weights})
    return model.eval()


def _is_weight(name: str) -> bool:
    return not name.startswith("front_end.")
