"""Checkpoints and ONNX files that the tests of exports and of ONNX teachers use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from psl.config import parse
from psl.models.families import FAMILIES, build_from_config
from psl.weights.checkpoint import TrainingState, save_checkpoint
from shards.format.classes import Classes
from tests.tiny_models import TINY

CLASSES = Classes(("/m/low", "/m/mid", "/m/high"), ("Low", "Mid | <b>", "High, ~~x~~"))


def make_checkpoint(
    folder: Path,
    family: str = "mobilenetv2",
    *,
    classes: Classes = CLASSES,
    made_by: str = "none",
) -> Path:
    """A small model of a family with random weights that tell sounds apart."""
    torch.manual_seed(0)
    config = parse(FAMILIES[family].config, {"name": family, **TINY[family]})
    model = build_from_config(config, len(classes))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 3 / module.in_features**0.5)
    save_checkpoint(
        folder,
        model=model,
        optimizer={},
        model_config=config,
        classes=classes,
        training=TrainingState(0, 0, (), made_by),
    )
    return folder


def sounds(rate: int, batch: int, seconds: float) -> np.ndarray:
    """[batch, N] float32: a tone each, over noise."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (batch, len(time)))
    tones = [0.3 * np.sin(2 * np.pi * 300 * (row + 1) * time) for row in range(batch)]
    return (np.stack(tones) + noise).astype(np.float32)


def make_graph(
    path: Path,
    *,
    shape: list[Any] | None = None,
    gain: float = 1.0,
    sigmoid: bool = True,
    external: str | None = None,
) -> Path:
    """An ONNX file of nobody's: scores of 3 classes from the mean square of its input.

    Class c has gain * (c + 1) * mean square, then perhaps a sigmoid.
    """
    weights = np.array([[gain, 2 * gain, 3 * gain]], np.float32)
    initial = numpy_helper.from_array(weights, "weights")
    if external is not None:
        (path.parent / "weights.bin").write_bytes(weights.tobytes())
        initial.ClearField("raw_data")
        initial.data_location = TensorProto.EXTERNAL
        entry = initial.external_data.add()
        entry.key, entry.value = "location", external
    nodes = [
        helper.make_node("Mul", ["audio", "audio"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
    ]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", ["scores"], ["probs"]))
    out = "probs" if sigmoid else "scores"
    shape = shape or ["batch", "samples"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, [shape[0], 3])],
        [initial],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    proto.ir_version = 8
    path.write_bytes(proto.SerializeToString())
    return path


def read_graph(path: Path) -> Any:
    """The file, by onnx itself."""
    return onnx.load(str(path))
