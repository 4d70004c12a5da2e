"""Weights, and in static form activations, of 8 bits, by onnxruntime's quantization.

The front end stays in float32: its powers span more than 8 bits can tell apart.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import numpy as np

from psl.data.checks import check_rate
from psl.weights.onnx_file import OnnxFile
from psl.weights.onnx_model import OnnxModel
from shards.dataset.reader import MemberReader
from shards.format.index import open_index

DYNAMIC_TYPES = ("MatMul", "Gemm")
"""onnxruntime's dynamic convolutions are slower than those in float32."""
STATIC_TYPES = ("Conv", "MatMul", "Gemm")
CALIBRATION_CLIPS = 64
_FRONT_END = "/model/front_end/"


def quantise(source: Path, out: Path, *, kind: str, calibration: str | None) -> None:
    """Write ``out``; ``calibration`` is an audio dataset, for kind static."""
    tools = importlib.import_module("onnxruntime.quantization")
    onnx = importlib.import_module("onnx")
    nodes = onnx.load(source, load_external_data=False).graph.node
    excluded = [node.name for node in nodes if node.name.startswith(_FRONT_END)]
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it recommends what has been done already
    try:
        if kind == "dynamic":
            tools.quantize_dynamic(
                source,
                out,
                op_types_to_quantize=list(DYNAMIC_TYPES),
                nodes_to_exclude=excluded,
                per_channel=True,
            )
            return
        if calibration is None:
            raise ValueError(
                "--int8 static needs audio to choose ranges with; give "
                "--calibration-audio DATASET"
            )
        tools.quantize_static(
            source,
            out,
            _Reader(source, calibration),
            op_types_to_quantize=list(STATIC_TYPES),
            nodes_to_exclude=excluded,
            per_channel=True,
        )
    finally:
        log.setLevel(level)


class _Reader:
    """Clips of a dataset, evenly spaced, one at a time, as onnxruntime asks for."""

    def __init__(self, model: Path, place: str) -> None:
        description = OnnxFile(model).description()
        assert description is not None
        index = open_index(place, kind="audio")
        check_rate(index, sample_rate=description.sample_rate, what=str(model.name))
        self._model = OnnxModel(model)
        self._reader, self._index = MemberReader(index, None), index
        number = min(CALIBRATION_CLIPS, len(index))
        self._rows = iter(np.linspace(0, len(index) - 1, number).round().astype(int))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input; None at the end."""
        row = next(self._rows, None)
        if row is None:
            return None
        count = int(self._index.table.count[row])
        pcm = self._reader.samples(int(row), 0, count)
        samples = np.zeros((1, max(count, self._model.description.min_samples)))
        samples[0, :count] = pcm / 32768
        return self._model.inputs_of(samples.astype(np.float32))
