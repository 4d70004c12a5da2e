"""Audio classifiers of the Hugging Face transformers library.

Owns their loading (safetensors only, nothing left at random), and a look at what they
give before anything is labelled: as many outputs as they name, and logits unless the
user says that they are probabilities. Features are psl/teachers/features.py's.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

import psl.features._torchaudio  # noqa: F401  before transformers, which imports torchaudio
from psl.teachers.config import Activation, TeacherConfig
from psl.teachers.features import ExtractorFeatures
from psl.teachers.member import Features, Member, match_outputs, match_stated
from psl.weights.tensors import tensors_sha256
from shards.format.classes import Classes, read_classes
from shards.system.files import file_sha256, sha256_of

_CHANGES_NOTHING = ("_name_or_path", "name_or_path", "transformers_version")
_NOT_LOADED = (
    *(OSError, ValueError, KeyError, RuntimeError, ImportError),
    *(TypeError, AttributeError, safetensors.SafetensorError),
)
"""What transformers raises for files that are not what it expects."""


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
    activation = config.activation or _activation(model.config, scores, where)
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
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"{where}: needs a package that is not installed ({error}); run "
            "pip install -e '.[teachers]'"
        ) from None
    how = {"revision": config.revision or "main"}
    trust = config.trust_remote_code
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            config.path, trust_remote_code=trust, **how
        )
        model, info = transformers.AutoModelForAudioClassification.from_pretrained(
            config.path,
            trust_remote_code=trust,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            **how,
        )
    except _NOT_LOADED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{where}: transformers cannot load it: {reason:.300}; expected an audio "
            "classifier with config.json, preprocessor_config.json and "
            "model.safetensors (trust_remote_code: true runs code that comes with it)"
        ) from None
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, info[what])):
            raise ValueError(
                f"{where}: {len(names)} {what.replace('_', ' ')}, such as {names[0]}; "
                "these weights would be random, so it is no trained classifier"
            )
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
    except (*_NOT_LOADED, IndexError) as error:
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
            f"of 0 to {number - 1} (output {odd[0]} is one too many or missing); mend "
            "its config.json, or state the outputs' order with teacher.classes"
        )
    return [names[place] for place in range(number)]


def _activation(settings: Any, scores: Tensor, where: str) -> Activation:
    """What the model's configuration says; AudioSet's classes are not exclusive.

    Raises ValueError if ``scores`` look like probabilities, of which a sigmoid would
    make values from 0.5 to 0.73 that nobody would notice.
    """
    if ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(
            f"{where}: all its outputs for noise and a tone are in 0 to 1 "
            f"({scores.min():.3g} to {scores.max():.3g}), as probabilities are; set "
            "teacher.activation to none if they are, else to sigmoid or softmax"
        )
    single = settings.problem_type == "single_label_classification"
    return "softmax" if single else "sigmoid"


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
