"""What a model has heard before it decides: the inputs of its last layer.

Owns what an embedding is for every family, and the exchange of the last layer. A
forward hook takes the inputs of that layer as they pass, so that they are exactly what
the probabilities come from.

| Family | Last layer | Embedding of a clip |
|---|---|---|
| mobilenetv2, efficientnet, resnet50 | classifier.1, head.linear | mean over frames |
| mn, cnn14 | classifier.5, fc_audioset | mean over frames, or of the pooled clip |
| ast | classifier.dense | mean over windows |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from psl.models.config import ModelConfig
from psl.models.families import build_from_config
from psl.models.pooling import decision_mean

_LAST_LAYER = {
    "mobilenetv2": "classifier.1",
    "cnn14": "fc_audioset",
    "efficientnet_b0": "head.linear",
    "efficientnet_b2": "head.linear",
    "resnet50": "head.linear",
    "ast": "classifier.dense",
    "mn": "classifier.5",
}


@dataclass(frozen=True)
class Embedding:
    """The inputs of the last layer that decide about clips."""

    frames: Tensor
    """[B, T, D] float32: of frames, or of the whole clip (T = 1) where the model pools
    embeddings and not decisions."""
    num_frames: Tensor | None
    """[B] frames that count; None for all."""

    @property
    def clip(self) -> Tensor:
        """[B, D], the mean over the frames that count."""
        return decision_mean(self.frames, self.num_frames)


def last_layer(config: ModelConfig) -> str:
    """The name of the linear layer that gives the logits, as in ``state_dict``."""
    return _LAST_LAYER[config.name]


@torch.inference_mode()
def embed(model: nn.Module, waveform: Tensor, lengths: Tensor) -> Embedding:
    """The embedding of ``waveform`` [B, N] float in [-1, 1], of ``lengths`` [B].

    ``model`` is one of psl/models, in evaluation mode. Raises ValueError for another,
    such as an ONNX file, which does not show what it hears.
    """
    config: Any = getattr(model, "config", None)
    name = _LAST_LAYER.get(getattr(config, "name", ""))
    if name is None:
        raise ValueError(
            "this model does not show its embeddings; give a run or checkpoint folder"
        )
    passed: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passed.append(inputs[0].detach().float())

    handle = model.get_submodule(name).register_forward_pre_hook(keep)
    try:
        model(waveform, lengths)
    finally:
        handle.remove()
    frames = passed[0]  # where there are two, the first is of the clip
    frames = frames.reshape(len(waveform), -1, frames.shape[-1])
    if frames.shape[1] == 1:
        return Embedding(frames, None)
    count: Any = model.num_frames
    return Embedding(frames, count(lengths))


def probabilities(embedding: Embedding, weight: Tensor, bias: Tensor) -> Tensor:
    """clip_probs [B, C] of a last layer with ``weight`` [C, D] and ``bias`` [C]."""
    frame_probs = (embedding.frames @ weight.T + bias).sigmoid()
    return decision_mean(frame_probs, embedding.num_frames)


def with_mean_pooling(config: ModelConfig) -> ModelConfig:
    """``config`` with attention over frames, which is one of classes, replaced."""
    if getattr(config, "pooling", None) == "attention":
        changed: Any = {"pooling": "mean"}
        return dataclasses.replace(config, **changed)
    return config


def with_last_layer(
    config: ModelConfig, weights: dict[str, Tensor], weight: Tensor, bias: Tensor
) -> nn.Module:
    """The model of ``config`` for other classes, in evaluation mode.

    ``weights`` are those of the model with the old classes; ``weight`` [C, D] and
    ``bias`` [C] are the new last layer.
    """
    model = build_from_config(config, len(bias))
    own = model.state_dict()
    name = last_layer(config)
    kept = {key: tensor for key, tensor in weights.items() if key in own}
    kept |= {f"{name}.weight": weight, f"{name}.bias": bias}
    model.load_state_dict(kept)
    return model.eval()
