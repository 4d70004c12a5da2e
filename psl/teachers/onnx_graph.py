"""ONNX files as teachers: our own exports, and any other's with a declaration.

Owns how chunks become what a graph takes, one length at a time, and a look at what it
gives before anything is labelled. psl/weights/onnx_file.py reads and runs the file.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psl.config import parse
from psl.config_values import read_yaml
from psl.features.config import (
    FbankConfig,
    LogMelConfig,
    PreemphasisMelConfig,
    SlaneyLogMelConfig,
)
from psl.features.fbank import Fbank
from psl.features.log_mel import log_mel
from psl.features.preemphasis_mel import PreemphasisMel
from psl.teachers.config import Activation, OnnxConfig, TeacherConfig
from psl.teachers.member import Member, match_stated
from psl.teachers.upstream import ClipProbs
from psl.weights.onnx_file import OnnxFile, Port
from psl.weights.onnx_model import OnnxModel
from shards.errors import ShardError
from shards.format.classes import Classes, read_classes
from shards.remote.places import is_url

MIN_SECONDS = 0.1
"""Shorter chunks are padded with zeros to this."""
_BESIDE = (".yaml", ".yml", ".json")
_FRONT_ENDS: dict[str, tuple[type, Any]] = {
    "log_mel": (LogMelConfig, log_mel),
    "slaney_log_mel": (SlaneyLogMelConfig, log_mel),
    "fbank": (FbankConfig, Fbank),
    "preemphasis_mel": (PreemphasisMelConfig, PreemphasisMel),
}
_LAYOUTS = {"B1FT": (0, 1, 2, 3), "B1TF": (0, 1, 3, 2), "BFT": (0, 2, 3)}
_LAYOUTS["BTF"] = (0, 3, 2)


def load(config: TeacherConfig, classes: Classes) -> Member:
    """The teacher in an ONNX file.

    Raises ShardError if the file is not there, damaged or not the one of ``sha256``,
    ValueError if a package or a part of its declaration is missing, it does not give
    what that says, or has not all ``classes``.
    """
    where = f"teacher {config.path}"
    if is_url(config.path):
        raise ValueError(f"{where}: ONNX files are not fetched; download it first")
    file = OnnxFile(config.path)
    if config.sha256 and config.sha256 != file.sha256:
        raise ShardError(
            f"{where}: sha256 is {file.sha256}, expected {config.sha256}; fetch the "
            "right file, or correct teacher.sha256"
        )
    if file.description() is not None:
        return _ours(config, file, classes, where)
    declared = _declared(config, where)
    stated = read_classes(str(declared.classes))
    model = Scores(file, declared, where).eval()
    number = model.try_out(len(stated))
    return Member(
        model=model,
        sample_rate=int(declared.sample_rate or 0),
        columns=match_stated(stated, number, classes, where=where),
        identity={
            "kind": "onnx",
            "file_sha256": file.sha256,
            "settings": asdict(replace(declared, classes=None)),
            "outputs_sha256": stated.sha256,
        },
    )


def _ours(
    config: TeacherConfig, file: OnnxFile, classes: Classes, where: str
) -> Member:
    """An export of ours, which says itself what it is."""
    for name in ("classes", "activation", "onnx"):
        if getattr(config, name):
            raise ValueError(
                f"{where}: an export of psl, which says itself what it takes and "
                f"gives; leave {name} out"
            )
    model = OnnxModel(config.path)
    own = model.description.classes
    return Member(
        model=ClipProbs(model).eval(),
        sample_rate=model.description.sample_rate,
        columns=match_stated(own, len(own), classes, where=where),
        identity={
            "kind": "onnx",
            "file_sha256": file.sha256,
            "outputs_sha256": own.sha256,
        },
    )


def _declared(config: TeacherConfig, where: str) -> OnnxConfig:
    """What is said of the file, in the configuration or beside the file.

    Raises ValueError for what is missing.
    """
    path, found = Path(config.path), config.onnx
    beside = [path.with_suffix(s) for s in _BESIDE if path.with_suffix(s).exists()]
    if found is None and beside:
        found = parse(OnnxConfig, read_yaml(str(beside[0])), where=str(beside[0]))
        if found.classes is not None:
            found = replace(found, classes=str(path.parent / found.classes))
    found = found or OnnxConfig()
    found = replace(
        found,
        classes=config.classes or found.classes,
        activation=config.activation or found.activation,
    )
    missing = [
        n for n in ("sample_rate", "classes", "activation") if not getattr(found, n)
    ]
    if missing:
        raise ValueError(
            f"{where}: not an export of psl, and not declared: {', '.join(missing)}; "
            f"write {path.with_suffix('.yaml')}, such as '{{sample_rate: 16000, "
            "classes: class_labels_indices.csv, activation: sigmoid}' (none if it "
            "returns probabilities)"
        )
    declared: OnnxConfig = found
    return declared


class Scores(nn.Module):
    """Waveforms [B, N] and lengths [B] -> probabilities [B, outputs], on the host.

    Each chunk is computed at its own length; those of one length together, if the file
    takes a batch of any size, else one by one.
    """

    def __init__(self, file: OnnxFile, declared: OnnxConfig, where: str) -> None:
        super().__init__()
        self._file, self._declared, self._where = file, declared, where
        self._input = _pick(file.inputs, declared.input, "input", where)
        self._output = _pick(file.outputs, declared.output, "output", where)
        if len(file.inputs) > 1:
            names = ", ".join(port.name for port in file.inputs)
            raise ValueError(f"{where}: has inputs {names}; expected one alone")
        self._front_end = _front_end(declared, where)
        self._layout = _LAYOUTS[declared.layout]
        self._activation: Activation = declared.activation or "none"
        self._rate = int(declared.sample_rate or 0)
        self._fixed = self._fixed_samples()

    def _fixed_samples(self) -> int | None:
        """Samples that the file takes at a time; None for any number."""
        shape, rank = self._input.shape, len(self._input.shape)
        expected = (1, 2, 3) if self._front_end is None else (len(self._layout),)
        if not self._input.is_float or rank not in expected:
            raise ValueError(
                f"{self._where}: input {self._input.name!r} takes "
                f"{'floats' if self._input.is_float else 'other types'} of {rank} "
                f"dimensions, expected float32 of {' or '.join(map(str, expected))} "
                "(waveforms, or the features that front_end declares)"
            )
        stated = self._declared.seconds
        samples = None if stated is None else round(stated * self._rate)
        own = shape[-1] if self._front_end is None else None
        if own is not None and samples is not None and own != samples:
            raise ValueError(
                f"{self._where}: takes {own} samples, but seconds: {stated:g} at "
                f"{self._rate} Hz is {samples}; correct seconds or sample_rate"
            )
        return own if own is not None else samples

    def try_out(self, num_stated: int) -> int:
        """The number of outputs; ValueError unless they are as declared."""
        rng = np.random.default_rng(0)
        t = np.arange(self._rate) / self._rate
        sounds = [rng.normal(0, 0.1, self._rate), 0.5 * np.sin(2 * np.pi * 440 * t)]
        waveform = torch.from_numpy(np.stack([*sounds, 0 * t]).astype(np.float32))
        scores = self._scores(waveform, "cpu")
        if scores.shape[1] != num_stated:
            return int(scores.shape[1])  # match_stated says it
        if not torch.isfinite(scores).all():
            raise ValueError(f"{self._where}: gives NaN for a second of sound")
        low, high = float(scores.min()), float(scores.max())
        if self._activation == "none" and (low < -1e-6 or high > 1 + 1e-6):
            raise ValueError(
                f"{self._where}: probabilities are declared (activation: none), but "
                f"its outputs go from {low:.3g} to {high:.3g}; set activation to "
                "sigmoid, or to softmax if a clip has exactly one class"
            )
        return num_stated

    @torch.compiler.disable
    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """[B, outputs] float32 in [0, 1]."""
        samples, sizes = waveform.detach().float().cpu(), lengths.cpu()
        found: Tensor | None = None
        for size in sizes.unique().tolist():
            rows = (sizes == size).nonzero()[:, 0]
            scores = self._scores(samples[rows, :size], waveform.device.type)
            if found is None:
                found = torch.zeros(len(samples), scores.shape[1])
            found[rows] = scores
        assert found is not None
        return found.to(waveform.device)

    def _scores(self, samples: Tensor, device: str) -> Tensor:
        """[k, outputs] of waveforms [k, N] without padding."""
        shortest = round(MIN_SECONDS * self._rate)
        samples = _filled(samples, max(shortest, samples.shape[1]))
        if self._fixed is None:
            return self._run(samples, device)
        windows = samples.split(self._fixed, dim=1)
        if len(windows) > 1 and 2 * windows[-1].shape[1] < self._fixed:
            windows = windows[:-1]  # too little to count as much as the others
        each = [self._run(_filled(w, self._fixed), device) for w in windows]
        return torch.stack(each).mean(dim=0)

    def _run(self, samples: Tensor, device: str) -> Tensor:
        inputs = self._inputs(samples)
        batch = None if len(self._input.shape) == 1 else self._input.shape[0]
        if batch is None and len(self._input.shape) > 1:
            return self._once(inputs, len(samples), device)
        rows = [
            inputs[k] if batch is None else np.repeat(inputs[k : k + 1], batch, axis=0)
            for k in range(len(inputs))
        ]
        return torch.cat([self._once(row, batch or 1, device)[:1] for row in rows])

    def _inputs(self, samples: Tensor) -> np.ndarray:
        if self._front_end is None:
            array = samples.contiguous().numpy()
            return array[:, None] if len(self._input.shape) == 3 else array
        with torch.no_grad():
            features = self._front_end(samples).numpy()
        if len(self._layout) == 3:
            layout = [axis - (axis > 1) for axis in self._layout]
            return np.ascontiguousarray(features[:, 0].transpose(layout))
        return np.ascontiguousarray(features.transpose(self._layout))

    def _once(self, array: np.ndarray, number: int, device: str) -> Tensor:
        """[number, outputs] of one run; ValueError for another shape."""
        (found,) = self._file.run(
            {self._input.name: array}, [self._output.name], device=device
        )
        scores = torch.from_numpy(np.asarray(found, np.float32))
        if len(self._input.shape) == 1 or (number == 1 and scores.dim() == 1):
            scores = scores.reshape(1, -1, scores.shape[-1])
        if scores.dim() not in (2, 3) or len(scores) != number:
            raise ValueError(
                f"{self._where}: output {self._output.name!r} is {list(scores.shape)} "
                f"for {number} chunks, expected [{number}, classes] or [{number}, "
                "frames, classes]; name another with output"
            )
        probs = _activated(scores, self._activation)
        if probs.dim() == 2:
            return probs
        over_frames = self._declared.over_frames
        return probs.amax(dim=1) if over_frames == "max" else probs.mean(dim=1)


def _activated(scores: Tensor, activation: Activation) -> Tensor:
    if activation == "softmax":
        return scores.softmax(dim=-1)
    return scores.sigmoid() if activation == "sigmoid" else scores


def _filled(samples: Tensor, size: int) -> Tensor:
    return nn.functional.pad(samples, (0, size - samples.shape[1]))


def _pick(ports: list[Port], name: str | None, kind: str, where: str) -> Port:
    names = [port.name for port in ports]
    if name is None and len(ports) == 1:
        return ports[0]
    if name not in names:
        asked = "none is named" if name is None else f"{name!r} is none of them"
        raise ValueError(
            f"{where}: has {kind}s {', '.join(names)}, and {asked}; declare the one "
            f"with {'audio' if kind == 'input' else 'scores'} as {kind}: NAME"
        )
    return ports[names.index(name)]


def _front_end(declared: OnnxConfig, where: str) -> Any:
    """From waveforms [B, N] to features [B, 1, F, T]; None for none."""
    if declared.front_end is None:
        return None
    values = dict(declared.front_end)
    name = values.pop("name", None)
    if name not in _FRONT_ENDS:
        raise ValueError(
            f"{where}: front_end.name is {name!r}, expected one of "
            f"{', '.join(_FRONT_ENDS)}"
        )
    kind, build = _FRONT_ENDS[str(name)]
    values.setdefault("sample_rate", declared.sample_rate)
    config: Any = parse(kind, values, where=f"{where}: front_end")
    if config.sample_rate != declared.sample_rate:
        raise ValueError(
            f"{where}: front_end.sample_rate is {config.sample_rate}, but sample_rate "
            f"{declared.sample_rate}; leave the former out"
        )
    return build(config)
