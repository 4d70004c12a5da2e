"""Weights that others published -> the names of our families.

Owns the renaming, and what of a file has no place here. Knows no run and no class
list. Files hold tensors and plain containers, or are not opened.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psl.features.config import PreemphasisMelConfig
from psl.models import mn
from psl.models.config import (
    ASTConfig,
    Cnn14Config,
    MnConfig,
    MobileNetV2Config,
    ModelConfig,
    ResNet50Config,
)
from psl.models.families import build_from_config
from psl.weights.files import parse_weights, read_file
from psl.weights.kinds import SUFFIXES
from psl.weights.pretrained import NOT_LOADED, load_config, load_extractor, load_model
from psl.weights.tensors import MAX_NAMED, find_weights

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A file's weights under our names."""

    config: ModelConfig
    """A configuration that they fit, as far as the file says."""
    weights: dict[str, Tensor]
    renamed: dict[str, str] = field(default_factory=dict)
    """Their name to ours, where these differ."""
    dropped: list[str] = field(default_factory=list)
    """Names in the file that have no place in ours."""
    labels: list[str] | None = None
    """Names of the outputs, where the file has them."""

    @property
    def family(self) -> str:
        """The name of the family."""
        return self.config.name


UPSTREAM_NAMES = ("features.0.0.weight", "classifier.1.weight")
_MN_NAME = "features.1.block.0.0.weight"
PUBLISHED_NAMES = (
    *UPSTREAM_NAMES,
    _MN_NAME,
    "conv_block1.conv1.weight",
    "v.pos_embed",
)
"""A name that weights of each of these have."""


def read_file_of_weights(path: str, like: ModelConfig | None = None) -> Published:
    """Ours of a file of weights of any form, or of the one in a folder.

    Weights with the names of the model of ``like``, one of ours, come back as they
    are. Raises ShardError if the file is damaged, ValueError if it is none of these.
    """
    own = [] if like is None else own_names(like)
    content = parse_weights(read_file(path), path)
    found = find_weights(content, path, known=(*PUBLISHED_NAMES, *own[:1]))
    found.announce(path)
    if like is not None and own[0] in found.weights:
        return Published(like, found.weights)
    return read_state_dict(found.weights, path)


def own_names(config: ModelConfig) -> list[str]:
    """The names of a model's weights, without the tables of its front end."""
    with torch.device("meta"):
        names = build_from_config(config, 1).state_dict()
    return [name for name in names if not name.startswith("front_end.")]


def read_state_dict(weights: Mapping[str, Tensor], where: str) -> Published:
    """Ours of a state_dict with the names of upstream, PANNs, EfficientAT or AST.

    Raises ValueError if it is none of these.
    """
    if "conv_block1.conv1.weight" in weights:
        return _read_panns(weights, where)
    if "v.pos_embed" in weights:
        return _read_ast(weights, where)
    if _MN_NAME in weights:
        return _read_mn(weights, where)
    if "features.0.0.weight" in weights:
        return Published(MobileNetV2Config(), dict(weights))
    some = ", ".join(sorted(weights)[:MAX_NAMED])
    raise ValueError(
        f"{where}: {len(weights)} tensors, such as {some}; expected the "
        "names of upstream's MobileNetV2 (features.0.0.weight), of PANNs' Cnn14 "
        f"(conv_block1.conv1.weight), of EfficientAT's mn ({_MN_NAME}) or of AST "
        "(v.pos_embed)"
    )


MN_WIDTHS = (0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0)
"""Of the published mn01 to mn40."""


def _read_mn(weights: Mapping[str, Tensor], where: str) -> Published:
    """EfficientAT's mn: names agree, and shapes tell the width.

    How many mel bands there are and how far the STFT moves, nothing in the file tells
    but its name: mn10_as_mels_40, mn10_as_hop_15 (in ms).
    """
    last = weights.get("classifier.2.weight")
    if last is None or "classifier.5.weight" not in weights or last.dim() != 2:
        raise ValueError(
            f"{where}: an mn without classifier.2 and classifier.5; expected the head "
            "of two linear layers (mn04_as, mn10_as, ...), others are not known here"
        )
    found = [w for w in MN_WIDTHS if mn.head_shape(w) == tuple(last.shape)]
    if not found:
        raise ValueError(
            f"{where}: classifier.2.weight has shape {list(last.shape)}, expected that "
            f"of one of the published widths {', '.join(map(str, MN_WIDTHS))}"
        )
    name, front_end = Path(where).name, {}
    if hop := re.search(r"_hop_(\d+)", name):
        front_end["hop_length"] = int(hop[1]) * 32
    if mels := re.search(r"_mels_(\d+)", name):
        front_end["n_mels"] = int(mels[1])
    config = MnConfig(
        width=found[0], pooling="clip", front_end=PreemphasisMelConfig(**front_end)
    )
    return Published(config, dict(weights))


def _read_panns(weights: Mapping[str, Tensor], where: str) -> Published:
    """Cnn14: names agree; their front end's tables are dropped, and tell the rate.

    How scores are pooled is only in the file's name: both kinds have the same tensors.
    """
    name = Path(where).name
    if "DecisionLevelMax" in name or "DecisionLevelAtt" in name:
        raise ValueError(
            f"{where}: a Cnn14 that pools the scores of frames in a way unknown here; "
            "take Cnn14, Cnn14_16k or Cnn14_DecisionLevelAvg"
        )
    pooling = "mean" if "DecisionLevelAvg" in name else "clip"
    mels = weights.get("logmel_extractor.melW")
    front_end: dict[str, Any] = {}
    if mels is None:
        raise ValueError(
            f"{where}: no logmel_extractor.melW, which tells a model for 32 kHz from "
            "one for 16 kHz; take the file as it was published"
        )
    if len(mels) == 1024 // 2 + 1:
        front_end = {"sample_rate": 32000, "n_fft": 1024, "hop_length": 320}
        front_end["f_max"] = 14000.0
    elif len(mels) != 512 // 2 + 1:
        raise ValueError(
            f"{where}: logmel_extractor.melW has {len(mels)} rows, expected 513 (the "
            "32 kHz model) or 257 (16 kHz)"
        )
    settings: dict[str, Any] = {"pooling": pooling, "front_end": front_end}
    config = Cnn14Config(**settings)
    theirs = ("spectrogram_extractor.", "logmel_extractor.")
    dropped = sorted(name for name in weights if name.startswith(theirs))
    kept = {name: t for name, t in weights.items() if name not in dropped}
    return Published(config, kept, dropped=dropped)


_AST_NAMES = (
    (r"v\.cls_token", "ast.embeddings.cls_token"),
    (r"v\.dist_token", "ast.embeddings.distillation_token"),
    (r"v\.pos_embed", "ast.embeddings.position_embeddings"),
    (r"v\.patch_embed\.proj\.", "ast.embeddings.patch_embeddings.projection."),
    (r"v\.blocks\.(\d+)\.norm1\.", r"ast.layers.\1.layernorm_before."),
    (r"v\.blocks\.(\d+)\.norm2\.", r"ast.layers.\1.layernorm_after."),
    (r"v\.blocks\.(\d+)\.attn\.proj\.", r"ast.layers.\1.attention.o_proj."),
    (r"v\.blocks\.(\d+)\.mlp\.(fc[12])\.", r"ast.layers.\1.mlp.\2."),
    (r"v\.norm\.", "ast.layernorm."),
    (r"mlp_head\.0\.", "classifier.layernorm."),
    (r"mlp_head\.1\.", "classifier.dense."),
)
_AST_JOINED = re.compile(r"v\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
_AST_UNUSED = re.compile(r"v\.head(_dist)?\.")
"""DeiT's own classifiers, which AST replaced by mlp_head."""


def _read_ast(weights: Mapping[str, Tensor], where: str) -> Published:
    """AST's authors' file: query, key and value are one tensor there."""
    ours: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}
    dropped: list[str] = []
    for name, tensor in weights.items():
        if joined := _AST_JOINED.fullmatch(name):
            layer, kind = joined.groups()
            stem = f"ast.layers.{layer}.attention"
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                ours[f"{stem}.{part}_proj.{kind}"] = third.contiguous()
            renamed[name] = f"{stem}.[qkv]_proj.{kind}"
            continue
        if _AST_UNUSED.match(name):
            dropped.append(name)
            continue
        new = name
        for pattern, replacement in _AST_NAMES:
            new = re.sub(f"^{pattern}", replacement, new)
        ours[new] = tensor
        renamed |= {name: new} if new != name else {}
    hidden = weights["v.pos_embed"].shape[2]
    layers = {name.split(".")[2] for name in weights if name.startswith("v.blocks.")}
    # 64 values a head, as in every published size; 12 rows of patches of 128 mels
    places = weights["v.pos_embed"].shape[1]
    columns, rest = divmod(places - 2, 12)
    if rest:
        raise ValueError(
            f"{where}: v.pos_embed has {places} places, expected 2 and 12 for each "
            "step of time: patches every 10 frames and 10 of 128 mels, the only "
            "strides that are known here"
        )
    config = ASTConfig(
        hidden_size=hidden,
        num_layers=len(layers),
        num_heads=max(1, hidden // 64),
        max_frames=(columns - 1) * 10 + 24 if columns > 1 else 16,
        fill=True,
    )
    return Published(config, ours, renamed, sorted(dropped))


def read_huggingface(path: str, like: ModelConfig | None = None) -> Published:
    """Ours of a Hugging Face model: a folder or a Hub name, in safetensors.

    EfficientNet is taken for the family of ``like``, as its own name does not tell
    sizes. Raises ValueError if it cannot be had whole, or is of no family here.
    """
    folder = Path(path).parent
    if not Path(path).exists() and folder != Path() and folder.is_dir():
        raise ValueError(  # the Hub would be asked, for half a minute
            f"{path}: not found in {folder}; expected weights there, or the owner/name "
            "of a model on the Hugging Face Hub"
        )
    kinds = {
        "audio-spectrogram-transformer": "ASTForAudioClassification",
        "efficientnet": "EfficientNetModel",
        "resnet": "ResNetModel",
    }
    try:
        settings = load_config(path)
        kind = settings.model_type
        if kind not in kinds:
            raise ValueError(f"a model of type {kind}, expected {', '.join(kinds)}")
        model = load_model(path, kinds[kind], settings)
    except NOT_LOADED as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a run, a checkpoint or a file of weights "
            f"(*{', *'.join(SUFFIXES)}), nor a model that transformers can load: "
            f"{reason:.300}"
        ) from None
    weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
    if kind == "audio-spectrogram-transformer":
        labels = [settings.id2label[n] for n in sorted(settings.id2label)]
        return _of_ast(settings, weights, labels, _normalisation(path))
    config: ModelConfig
    if kind == "resnet":
        config = like if like and like.name == "resnet50" else ResNet50Config()
    elif like is not None and like.name.startswith("efficientnet"):
        config = like
    else:
        raise ValueError(
            f"{path}: an EfficientNet; set model.name=efficientnet_b0 or 2"
        )
    ours = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    return Published(config, _one_channel(ours))


def _normalisation(path: str) -> dict[str, float]:
    """Of the features that an AST was trained on; empty, so AudioSet's, if not said."""
    try:
        extractor = load_extractor(path, "ASTFeatureExtractor")
    except OSError:  # no preprocessor_config.json
        return {}
    rate = {"sample_rate": extractor.sampling_rate}
    if not extractor.do_normalize:
        return {**rate, "mean": 0.0, "std": 0.5}  # (x - mean) / (2 std) is then x
    return {**rate, "mean": extractor.mean, "std": extractor.std}


def _of_ast(
    settings: Any,
    weights: dict[str, Tensor],
    labels: list[str],
    normalisation: dict[str, float],
) -> Published:
    renamed = {
        name: name.replace("audio_spectrogram_transformer.", "ast.", 1)
        for name in weights
    }
    config = ASTConfig(
        hidden_size=settings.hidden_size,
        num_layers=settings.num_hidden_layers,
        num_heads=settings.num_attention_heads,
        frequency_stride=settings.frequency_stride,
        time_stride=settings.time_stride,
        max_frames=settings.max_length,
        fill=True,
        front_end={  # type: ignore[arg-type]
            "n_mels": settings.num_mel_bins,
            **normalisation,
        },
    )
    ours = {renamed[name]: tensor for name, tensor in weights.items()}
    changed = {name: new for name, new in renamed.items() if new != name}
    return Published(config, ours, changed, labels=labels)


def _one_channel(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution with its three colours summed: as if all saw the same."""
    name = next(n for n, t in weights.items() if t.dim() == 4)
    if weights[name].shape[1] == 3:
        weights[name] = weights[name].sum(dim=1, keepdim=True)
    return weights
