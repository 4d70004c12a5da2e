"""Models that the transformers library loads: from safetensors, whole, and bounded.

Owns every call of ``from_pretrained``. A folder may come from anyone: all that
transformers reads there is a plain file in it, and a model no larger than its weights,
before transformers sees it. A name on the Hub is transformers' own business.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import safetensors
import torch

import psl.features._torchaudio  # noqa: F401  before transformers, which imports torchaudio
from psl.models.convolutional import transformers_module
from psl.weights.files import MAX_BYTES, read_shapes
from psl.weights.kinds import HUB_CONFIG
from shards.errors import ShardError
from shards.format.schema import parse_json
from shards.system.files import open_plain, read_plain

NOT_LOADED = (
    *(OSError, ValueError, KeyError, RuntimeError, ImportError, ShardError),
    *(TypeError, AttributeError, IndexError, safetensors.SafetensorError),
)
"""What transformers raises for files that are not what it expects."""
EXTRACTOR_CONFIG = "preprocessor_config.json"
_INDEX = "model.safetensors.index.json"
_MAX_FILE_BYTES = {".json": 64 << 20, ".py": 4 << 20, ".safetensors": MAX_BYTES}
"""Files that transformers may read, by suffix; longer ones are refused."""
_MAX_NUMBERS = {
    "sampling_rate": 1 << 20,
    "max_length": 1 << 17,
    "num_mel_bins": 1 << 12,
    "feature_size": 1 << 12,
}
_MAX_NUMBER = 1 << 24
"""Largest number that a feature extractor may have; it makes arrays of such sizes."""
_LAYER_WORDS = ("layers", "depth", "blocks")
_SPARE_VALUES = 1 << 24
"""Weights that a model may have beyond twice those of its file, as tables have."""


def load_config(path: str, **how: Any) -> Any:
    """The configuration of a model; raises one of NOT_LOADED if it cannot be had."""
    transformers = transformers_module(f"at {path}")
    if Path(path).is_dir():
        _check_files(path)
    return transformers.AutoConfig.from_pretrained(path, **how)


def load_extractor(path: str, kind: str = "AutoFeatureExtractor", **how: Any) -> Any:
    """A feature extractor of class ``kind``; raises one of NOT_LOADED without one."""
    transformers = transformers_module(f"at {path}")
    if Path(path, EXTRACTOR_CONFIG).exists():
        _check_numbers(path)
    return getattr(transformers, kind).from_pretrained(path, **how)


def load_model(path: str, kind: str, config: Any, **how: Any) -> Any:
    """A model of the transformers class ``kind``, in float32.

    Raises one of NOT_LOADED if it has no safetensors, or not all weights.
    """
    loader = getattr(transformers_module(f"at {path}"), kind)
    if Path(path).is_dir() and not how.get("trust_remote_code"):
        _check_size(path, loader, config)
    model, info = loader.from_pretrained(
        path,
        config=config,
        use_safetensors=True,
        output_loading_info=True,
        dtype=torch.float32,
        **how,
    )
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, info[what])):
            raise ValueError(
                f"{len(names)} {what.replace('_', ' ')}, such as {names[0]}; these "
                "weights would be random"
            )
    return model


def _check_files(path: str) -> None:
    """ShardError unless all files that transformers may read are plain and bounded."""
    for name in sorted(os.listdir(path)):
        if (most := _MAX_FILE_BYTES.get(Path(name).suffix)) is not None:
            open_plain(path, name, max_bytes=most).close()


def _check_numbers(path: str) -> None:
    """ValueError for a feature extractor that would make arrays of any size."""
    data = read_plain(path, EXTRACTOR_CONFIG, max_bytes=_MAX_FILE_BYTES[".json"])
    settings = parse_json(data, where=EXTRACTOR_CONFIG)
    for name, value in settings.items():
        most = _MAX_NUMBERS.get(name, _MAX_NUMBER)
        if isinstance(value, int | float) and not abs(value) <= most:
            raise ValueError(
                f"{EXTRACTOR_CONFIG}: {name} = {value}, expected {most} at most"
            )


def _check_size(path: str, loader: Any, config: Any) -> None:
    """ValueError for a configuration of a far larger model than the weights are of."""
    shapes = _shapes(path)
    for name, value in config.to_dict().items():
        is_layers = any(word in name for word in _LAYER_WORDS)
        if is_layers and isinstance(value, int) and value > max(len(shapes), 64):
            raise ValueError(
                f"{HUB_CONFIG}: {name} = {value}, but its weights have only "
                f"{len(shapes)} tensors"
            )
    automatic = hasattr(loader, "from_config")
    with torch.device("meta"):
        model = loader.from_config(config) if automatic else loader(config)
    expected = sum(tensor.numel() for tensor in model.state_dict().values())
    found = sum(map(math.prod, shapes.values()))
    if expected > 2 * found + _SPARE_VALUES:
        raise ValueError(
            f"{HUB_CONFIG}: a model of {expected} weights, but its files have {found}"
        )


def _shapes(path: str) -> dict[str, list[int]]:
    """The shapes of all tensors, whose files may be several."""
    names = ["model.safetensors"]
    if Path(path, _INDEX).exists() and not Path(path, names[0]).exists():
        data = read_plain(path, _INDEX, max_bytes=_MAX_FILE_BYTES[".json"])
        names = sorted(set(parse_json(data, where=_INDEX)["weight_map"].values()))
    shapes: dict[str, list[int]] = {}
    for name in names:
        shapes |= read_shapes(path, name)
    return shapes
