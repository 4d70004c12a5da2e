"""A checkpoint -> a TFLite (LiteRT) file of one length, by litert-torch.

Owns the check that the file computes what PyTorch computes.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psl.exporting.check import TOLERANCE, batch_of
from psl.exporting.front_end import shortest_samples
from psl.exporting.wrapped import FromWaveform
from psl.weights.checkpoint import Checkpoint
from shards.system.extras import pip_install
from shards.system.files import write_atomic


def export_tflite(
    checkpoint: Checkpoint,
    out: Path,
    *,
    seconds: float,
    audio: Sequence[np.ndarray] = (),
) -> None:
    """Write ``out``, which takes waveforms [1, N] of ``seconds``.

    Raises ValueError if litert-torch is not installed, cannot convert the model, or the
    file differs from PyTorch by more than 1e-4; then no file is written.
    """
    config: Any = checkpoint.model_config.front_end
    samples = round(seconds * config.sample_rate)
    if not shortest_samples(config) <= samples <= 3600 * config.sample_rate:
        raise ValueError(
            f"--seconds {seconds:g}: expected "
            f"{shortest_samples(config) / config.sample_rate:g} to 3600"
        )
    litert = _litert(out)
    model = checkpoint.build_model()
    waveform = batch_of(audio, config.sample_rate, 1, samples)
    try:
        with warnings.catch_warnings(action="ignore"):
            converted = litert.convert(FromWaveform(model).eval(), (waveform,))
            found = converted(waveform.numpy())
    except Exception as error:  # converters raise anything
        if isinstance(error, MemoryError):
            raise
        line = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{out}: litert-torch cannot convert {checkpoint.model_config.name}: "
            f"{line}; use --onnx"
        ) from None
    with torch.no_grad():
        expected = model(waveform)
    pairs = zip(expected, found, strict=True)
    largest = max(float(np.abs(a.numpy() - np.asarray(b)).max()) for a, b in pairs)
    if not largest <= TOLERANCE:
        raise ValueError(
            f"{out}: differs from PyTorch by {largest:.2g}, expected at most "
            f"{TOLERANCE:g}; nothing was written; use --onnx"
        )
    with tempfile.TemporaryDirectory(prefix="psl-export-") as folder:
        made = Path(folder, "model.tflite")
        converted.export(str(made))
        data = made.read_bytes()
    write_atomic(out, data)
    print(
        f"{out}: {len(data) / 1e6:.2f} MB, takes {samples} samples at "
        f"{config.sample_rate} Hz; differs from PyTorch by at most {largest:.1g}"
    )


def _litert(out: Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("litert_torch")
    except ImportError as error:
        raise ValueError(
            f"{out}: needs a package that is not installed ({error}); run "
            f"{pip_install('tflite')}"
        ) from None
