"""Audio classifiers of the Hugging Face transformers library.

Owns their loading (safetensors only, nothing left at random) and the way of a chunk
through feature extractor and model. Each chunk's features are made from it alone, at
its own length; chunks whose features have the same shape go through the model together,
so that no chunk is padded for the sake of another.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import psl._torchaudio  # noqa: F401  before transformers, which imports torchaudio
from psl.teachers.config import Activation, TeacherConfig
from psl.teachers.member import Member, match_outputs, match_stated, tensors_sha256
from shards.classes import Classes, read_classes
from shards.schema import sha256_of

MIN_SECONDS = 0.1
"""Shorter chunks are padded with zeros to this; a window of features has 0.025 s."""
_CHANGES_NOTHING = ("_name_or_path", "name_or_path", "transformers_version")


class Classifier(nn.Module):
    """A feature extractor and a model."""

    def __init__(
        self, extractor: Any, model: nn.Module, sample_rate: int, activation: Activation
    ) -> None:
        super().__init__()
        self._extractor, self.model = extractor, model
        self._sample_rate, self._activation = sample_rate, activation

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Probabilities [B, outputs] float32 of waveforms [B, N] with lengths [B]."""
        groups = self._features(waveform, lengths)
        logits = [self.model(**features).logits.float() for _, features in groups]
        places = torch.cat([places for places, _ in groups])
        scores = torch.cat(logits)[places.argsort()]
        if self._activation == "softmax":
            return scores.softmax(dim=1)
        return scores.sigmoid() if self._activation == "sigmoid" else scores

    # NumPy code, which torch.compile would try to follow
    @torch.compiler.disable
    def _features(
        self, waveform: Tensor, lengths: Tensor
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Places [n] in the batch and stacked features, for each shape of features."""
        shortest = round(MIN_SECONDS * self._sample_rate)
        pcm = waveform.float().cpu().numpy()
        groups: dict[tuple[Any, ...], list[tuple[int, dict[str, Tensor]]]] = {}
        for place, length in enumerate(lengths.tolist()):
            # a copy, as extractors may write to what they get
            samples = np.zeros(max(length, shortest), np.float32)
            samples[:length] = pcm[place, :length]
            with torch.autocast("cpu", enabled=False):
                features = self._extractor(
                    samples, sampling_rate=self._sample_rate, return_tensors="pt"
                )
            shapes = tuple((name, tuple(x.shape)) for name, x in features.items())
            groups.setdefault(shapes, []).append((place, dict(features)))
        return [
            (
                torch.tensor([place for place, _ in group], device=waveform.device),
                {
                    name: torch.cat([f[name] for _, f in group]).to(waveform.device)
                    for name in group[0][1]
                },
            )
            for group in groups.values()
        ]


def load(config: TeacherConfig, classes: Classes) -> Member:
    """The model of a folder or Hub name, with its feature extractor.

    Raises ValueError if transformers or the model is not there, the model has no
    safetensors, misses weights, or has not all ``classes``.
    """
    where = f"teacher {config.path}"
    extractor, model = _from_pretrained(config, where)
    settings = model.config
    outputs = [settings.id2label[number] for number in sorted(settings.id2label)]
    if config.classes is None:
        columns = match_outputs(outputs, classes, where=where)
    else:
        stated = read_classes(config.classes)
        columns = match_stated(stated, len(outputs), classes, where=where)
    activation = config.activation or _activation(settings)
    return Member(
        model=Classifier(extractor, model, extractor.sampling_rate, activation).eval(),
        sample_rate=extractor.sampling_rate,
        columns=columns,
        identity={
            "kind": "huggingface",
            "architecture": type(model).__name__,
            "weights_sha256": tensors_sha256(model.state_dict()),
            "settings_sha256": _settings_sha256(extractor, model),
            "activation": activation,
            "columns_sha256": sha256_of(json.dumps(columns).encode()),
        },
    )


def _from_pretrained(config: TeacherConfig, where: str) -> tuple[Any, Any]:
    """Feature extractor and model; ValueError if they cannot be had whole."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"{where}: needs a package that is not installed ({error}); run "
            "pip install 'psl-audio[teachers]'"
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
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
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


def _activation(settings: Any) -> Activation:
    """What the model's configuration says; AudioSet's classes are not exclusive."""
    single = settings.problem_type == "single_label_classification"
    return "softmax" if single else "sigmoid"


def _settings_sha256(extractor: Any, model: Any) -> str:
    """Of everything in the configurations but where and when they were written."""
    settings = [
        {k: v for k, v in part.to_dict().items() if k not in _CHANGES_NOTHING}
        for part in (extractor, model.config)
    ]
    return sha256_of(json.dumps(settings, sort_keys=True, default=str).encode())
