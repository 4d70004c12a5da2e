"""A checkpoint -> an ONNX file, traced, described, quantised on request, and checked.

Owns the order: everything happens aside, and the file takes its name only if
onnxruntime agrees with PyTorch. By torch's tracing exporter: the newer one, by
torch.export, gave the same results in 30 to 90 s instead of 1 to 3 (2026-11-29,
torch 2.13), most of it spent on symbolic lengths.
"""

from __future__ import annotations

import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from psl.exporting.check import Check, check_onnx, describe
from psl.exporting.front_end import shortest_samples
from psl.exporting.quantise import quantise
from psl.exporting.wrapped import FromFeatures, FromWaveform, features_of
from psl.models.families import FAMILIES
from psl.weights.checkpoint import Checkpoint
from psl.weights.onnx_file import Description, to_metadata
from psl.weights.onnx_model import OUTPUTS
from shards import __version__
from shards.system.extras import pip_install
from shards.system.files import write_atomic

_log = logging.getLogger(__name__)

OPSET = 18
MAX_BYTES = (2 << 30) - (1 << 20)
"""What protobuf can hold in one file, with room for the graph."""


def export_onnx(
    checkpoint: Checkpoint,
    out: Path,
    *,
    features: bool = False,
    int8: str | None = None,
    calibration: str | None = None,
    audio: Sequence[np.ndarray] = (),
    teacher: str | None = None,
    license: str | None = None,
) -> Check:
    """Write ``out`` and say what the check found.

    ``audio`` are samples [N] at the model's rate to check with, in place of made ones;
    ``calibration`` an audio dataset, for ``int8="static"``.

    Raises ValueError if the file differs from the model by more than 1e-4 in a
    probability, or a package is not installed; then no file is written.
    """
    _need(("onnx", "onnxruntime"), f"{out}")
    model = checkpoint.build_model()
    description = describe_checkpoint(
        checkpoint, model, features=features, teacher=teacher, license=license
    )
    if (
        sum(t.numel() * t.element_size() for t in checkpoint.weights.values())
        > MAX_BYTES
    ):
        raise ValueError(
            f"{checkpoint.folder}: more than 2 GiB of weights, which an ONNX file "
            "cannot hold; export it with --safetensors"
        )
    data = with_metadata(trace(model, features=features), description)
    with tempfile.TemporaryDirectory(prefix="psl-export-") as folder:
        whole = Path(folder, "float32.onnx")
        whole.write_bytes(data)
        if int8 is not None:
            small = Path(folder, "int8.onnx")
            check_onnx(whole, checkpoint, model, audio, name=str(out))
            quantise(whole, small, kind=int8, calibration=calibration)
            described = replace_precision(description, f"int8 {int8}")
            whole, data = small, with_metadata(small.read_bytes(), described)
            whole.write_bytes(data)
        check = check_onnx(
            whole, checkpoint, model, audio, name=str(out), exact=int8 is None
        )
    write_atomic(out, data)
    print(f"{out}: {describe(check)}")
    return check


def describe_checkpoint(
    checkpoint: Checkpoint,
    model: Any,
    *,
    features: bool,
    teacher: str | None,
    license: str | None,
) -> Description:
    """What an export says of itself."""
    front_end = checkpoint.model_config.front_end
    return Description(
        mids=list(checkpoint.classes.mids),
        names=list(checkpoint.classes.names),
        sample_rate=front_end.sample_rate,
        input="features" if features else "waveform",
        min_samples=shortest_samples(front_end),
        frame_samples=int(model.frame_samples),
        model=checkpoint.model_config,
        teacher=teacher,
        license=license,
        source=f"{FAMILIES[checkpoint.model_config.name].config.__name__} "
        f"{checkpoint.model_sha256}",
        version=__version__,
    )


def replace_precision(description: Description, precision: str) -> Description:
    """The same, of another precision."""
    changed: Description = replace(description, precision=precision)
    return changed


def trace(model: nn.Module, *, features: bool) -> bytes:
    """The bytes of an ONNX file of ``model``, batch and length free."""
    front_end: Any = model.config.front_end  # type: ignore[union-attr]
    name = "features" if features else "waveform"
    given = 0.1 * torch.randn(2, 3 * front_end.sample_rate, generator=_seeded())
    axes = {0: "batch", 1: "samples"}
    wrapped: nn.Module = FromWaveform(model)
    if features:
        given, axes = features_of(model, given), {0: "batch", 3: "frames"}
        wrapped = FromFeatures(model)
    stream: Any = io.BytesIO()  # which export takes where dynamo is false
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # on tracing, and that it will go one day
        torch.onnx.export(
            wrapped.eval(),
            (given,),
            stream,
            dynamo=False,
            opset_version=OPSET,
            input_names=[name],
            output_names=list(OUTPUTS),
            dynamic_axes={
                name: axes,
                "clip_probs": {0: "batch"},
                "frame_probs": {0: "batch", 1: "output_frames"},
            },
        )
    return stream.getvalue()


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def with_metadata(data: bytes, description: Description) -> bytes:
    """The file with what it says of itself, and without weights that nothing reads.

    Quantisation leaves those that two nodes had in common.
    """
    onnx = importlib.import_module("onnx")
    proto = onnx.load_model_from_string(data)
    _name_weights_once(proto.graph)
    read = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    onnx.helper.set_model_props(proto, to_metadata(description))
    proto.producer_name, proto.producer_version = "psl", __version__
    made: bytes = proto.SerializeToString()
    return made


def _name_weights_once(graph: Any) -> None:
    """Take out Identity nodes that only give a weight another name.

    Tracing makes them for equal weights, and quantisation does not see through them.
    """
    weights = {tensor.name for tensor in graph.initializer}
    other = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in weights
    }
    kept = [node for node in graph.node if node.output[0] not in other]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = other.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)


def _need(modules: Sequence[str], where: str) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"{where}: needs a package that is not installed ({error}); run "
                f"{pip_install('export')}"
            ) from None
