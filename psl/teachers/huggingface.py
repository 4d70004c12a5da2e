"""Audio classifiers of the Hugging Face transformers library.

Owns a look at what they give before anything is labelled: as many outputs as they
name, logits unless the user says that they are probabilities, and how these become
probabilities. psl/weights/pretrained.py loads them, psl/teachers/features.py has their
features.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psl.models.convolutional import transformers_module
from psl.teachers.config import Activation, TeacherConfig
from psl.teachers.features import ExtractorFeatures
from psl.teachers.member import Features, Member, match_outputs, match_stated
from psl.weights.pretrained import NOT_LOADED, load_config, load_extractor, load_model
from psl.weights.tensors import tensors_sha256
from shards.format.classes import Classes, read_classes
from shards.system.files import file_sha256, sha256_of

_log = logging.getLogger(__name__)

_CHANGES_NOTHING = ("_name_or_path", "name_or_path", "transformers_version")
_ACTIVATIONS: dict[str, Activation] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}
"""What transformers' own losses take for each problem_type."""
_MANY_CLASSES = 400
_AUDIOSET_NAMES = {
    *("Speech", "Music", "Dog", "Vehicle", "Rain", "Applause", "Guitar", "Laughter"),
    *("Siren", "Silence", "Water", "Bird"),
}
"""Some classes of AudioSet, all of whose taggers are multi-label. AST's published
checkpoints do not state a problem_type (MIT/ast-finetuned-audioset-10-10-0.4593)."""


class Logits(nn.Module):
    """The logits of a classifier, alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **features: Tensor) -> Tensor:
        """[n, outputs] logits."""
        return self.model(**features).logits


def load(config: TeacherConfig, classes: Classes) -> Member:
    """The model of a folder or Hub name, with its feature extractor.

    Raises ValueError if transformers or the model is not there, the model has no
    safetensors, misses weights, names other outputs than it has, has not all
    ``classes``, or seems to give probabilities and ``config`` does not say so.
    """
    where = f"teacher {config.path}"
    extractor, model = _from_pretrained(config, where)
    classifier, features = Logits(model).eval(), ExtractorFeatures(extractor)
    scores = _try_out(classifier, features, extractor.sampling_rate, where)
    if config.classes is None:
        outputs = _outputs(model.config, scores.shape[1], where)
        columns = match_outputs(outputs, classes, where=where)
    else:
        stated = read_classes(config.classes)
        columns = match_stated(stated, scores.shape[1], classes, where=where)
    activation = choose_activation(config, model.config, scores, where)
    code_sha256 = remote_code_sha256([extractor, model, model.config])
    return Member(
        model=classifier,
        sample_rate=extractor.sampling_rate,
        columns=columns,
        identity={
            "kind": "huggingface",
            "architecture": type(model).__name__,
            "weights_sha256": tensors_sha256(model.state_dict()),
            "settings_sha256": _settings_sha256(extractor, model),
            "activation": activation,
            "columns_sha256": sha256_of(json.dumps(columns).encode()),
        }
        | ({"code_sha256": code_sha256} if code_sha256 else {}),
        activation=activation,
        features=features,
    )


def _from_pretrained(config: TeacherConfig, where: str) -> tuple[Any, Any]:
    """Feature extractor and model; ValueError if they cannot be had whole."""
    transformers_module(f"at {config.path}")
    how: dict[str, Any] = {
        "revision": config.revision or "main",
        "trust_remote_code": config.trust_remote_code,
    }
    try:
        settings = load_config(config.path, **how)
        extractor = load_extractor(config.path, **how)
        model = load_model(
            config.path, "AutoModelForAudioClassification", settings, **how
        )
    except NOT_LOADED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{where}: transformers cannot load it: {reason:.300}; expected an audio "
            "classifier with config.json, preprocessor_config.json and "
            "model.safetensors (trust_remote_code: true runs code that comes with it)"
        ) from None
    return extractor, model


def _try_out(model: nn.Module, features: Features, rate: int, where: str) -> Tensor:
    """Scores [2, outputs] of a second of noise and one of a tone.

    Raises ValueError if the model cannot take what the extractor makes of them.
    """
    noise = np.random.default_rng(0).normal(0, 0.1, rate)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    waveform = torch.from_numpy(np.stack([noise, tone]).astype(np.float32))
    try:
        (group,) = features(waveform, torch.full((2,), rate))
        with torch.no_grad():
            scores: Tensor = model(**group.inputs).float()
        if scores.dim() != 2 or len(scores) != 2:
            raise ValueError(f"logits of shape {list(scores.shape)} for 2 chunks")
    except NOT_LOADED as error:
        raise ValueError(
            f"{where}: fails on a second of audio: {error!r:.300}; expected a model "
            "that gives logits [chunks, outputs] for what its feature extractor makes"
        ) from None
    return scores


def _outputs(settings: Any, number: int, where: str) -> list[str]:
    """The names of all outputs, in order; ValueError unless there is one for each."""
    names = settings.id2label
    if sorted(names) != list(range(number)):
        odd = sorted(names.keys() ^ set(range(number)))
        raise ValueError(
            f"{where}: its id2label names {len(names)} outputs, expected one for each "
            f"of 0 to {number - 1} (output {odd[0]} is one too many or missing); fix "
            "its config.json, or state the outputs' order with teacher.classes"
        )
    return [names[place] for place in range(number)]


def choose_activation(
    config: TeacherConfig, settings: Any, scores: Tensor, where: str
) -> Activation:
    """What is stated, or else what the model's configuration says; printed with why.

    Raises ValueError if neither tells, or if ``scores`` look like probabilities, of
    which a sigmoid would make values from 0.5 to 0.73 that nobody would notice.
    """
    if config.activation:
        return config.activation
    if ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(
            f"{where}: all its outputs for noise and a tone are in 0 to 1 "
            f"({scores.min():.3g} to {scores.max():.3g}), as probabilities are; set "
            "teacher.activation to none if they are, else to sigmoid or softmax"
        )
    names = {str(name).strip() for name in settings.id2label.values()}
    activation: Activation
    if (kind := settings.problem_type) in _ACTIVATIONS:
        activation, reason = _ACTIVATIONS[kind], f"problem_type is {kind}"
    elif kind is None and len(names) >= _MANY_CLASSES and names >= _AUDIOSET_NAMES:
        activation, reason = "sigmoid", f"its {len(names)} outputs are AudioSet's"
    else:
        raise ValueError(
            f"{where}: its config.json does not say how its {scores.shape[1]} outputs "
            f"become probabilities (problem_type is {kind}); set teacher.activation to "
            "softmax if a clip has exactly one of these classes, to sigmoid if it may "
            "have several or none"
        )
    _log.info("%s: probabilities by %s, as %s", where, activation, reason)
    return activation


def _settings_sha256(extractor: Any, model: Any) -> str:
    """Of everything in the configurations but where and when they were written."""
    settings = [
        {k: v for k, v in part.to_dict().items() if k not in _CHANGES_NOTHING}
        for part in (extractor, model.config)
    ]
    return sha256_of(json.dumps(settings, sort_keys=True, default=str).encode())


PACKAGE = "transformers_modules"
"""In which transformers puts all modules that came with models."""


def remote_code_sha256(objects: Iterable[object]) -> str | None:
    """Hex SHA-256 of the names and bytes of the files; None if there are none.

    Of the classes of ``objects``, and what these files import of their own kind.
    """
    modules = {
        kind.__module__
        for thing in objects
        for kind in type(thing).__mro__
        if kind.__module__.split(".")[0] == PACKAGE
    }
    if not modules:
        return None
    utils = importlib.import_module("transformers.dynamic_module_utils")
    hashes: set[str] = set()
    for name in modules:
        file = Path(str(sys.modules[name].__file__))
        for path in (file, *map(Path, utils.get_relative_import_files(str(file)))):
            hashes.add(f"{path.name} {file_sha256(path)}\n")
    return sha256_of("".join(sorted(hashes)).encode())
