"""An ONNX file of ours as a model: called like the one that it was exported from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psl.features.config import FbankConfig, LogMelConfig, SlaneyLogMelConfig
from psl.features.fbank import Fbank
from psl.features.log_mel import log_mel
from psl.features.preemphasis_mel import PreemphasisMel
from psl.weights.onnx_file import Description, OnnxFile

OUTPUTS = ("clip_probs", "frame_probs")


class OnnxModel(nn.Module):
    """Waveforms [B, N] and lengths [B] to (clip_probs, frame_probs), by onnxruntime.

    Waveforms of different lengths are computed one length at a time, so that none
    depends on the padding. Holds no parameters.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises what OnnxFile raises, and ValueError for a file of others."""
        super().__init__()
        self.file = OnnxFile(path)
        found = self.file.description()
        if found is None:
            raise ValueError(
                f"{path}: not an export of psl, so what goes in and comes out is not "
                "known; it can be a teacher, with a declaration (docs/teachers.md)"
            )
        self.description: Description = found
        _check(self.file, found)
        self.frame_samples = found.frame_samples
        self._front_end = _front_end(found)

    @torch.compiler.disable
    def forward(
        self, waveform: Tensor, num_samples: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As any model of psl/models; frames beyond an example's end are 0.

        Waveforms shorter than ``description.min_samples`` are padded with zeros, which
        then count.
        """
        batch, longest = waveform.shape
        lengths = (
            torch.full((batch,), longest) if num_samples is None else num_samples.cpu()
        )
        samples = waveform.detach().float().cpu()
        found: list[tuple[Tensor, list[np.ndarray]]] = []
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            part = samples[rows, :length]
            missing = max(0, self.description.min_samples - length)
            part = nn.functional.pad(part, (0, missing))
            found.append((rows, self._run(part, waveform.device.type)))
        num_classes = len(self.description.mids)
        clip_probs = torch.zeros(batch, num_classes)
        num_frames = max(outputs[1].shape[1] for _, outputs in found)
        frame_probs = torch.zeros(batch, num_frames, num_classes)
        for rows, (clips, frames) in found:
            clip_probs[rows] = torch.from_numpy(clips)
            frame_probs[rows, : frames.shape[1]] = torch.from_numpy(frames)
        return clip_probs.to(waveform.device), frame_probs.to(waveform.device)

    def _run(self, samples: Tensor, device: str) -> list[np.ndarray]:
        inputs = self.inputs_of(samples.numpy())
        return self.file.run(inputs, list(OUTPUTS), device=device)

    def inputs_of(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """What the graph takes of waveforms [B, N] float32."""
        given = samples
        if self._front_end is not None:
            with torch.no_grad():
                given = self._front_end(torch.from_numpy(samples)).numpy()
        return {self.description.input: np.ascontiguousarray(given)}


def _check(file: OnnxFile, found: Description) -> None:
    """ValueError unless the graph has the inputs and outputs that its metadata says."""
    inputs = [port.name for port in file.inputs]
    outputs = {port.name: port.shape for port in file.outputs}
    if inputs != [found.input] or not {*OUTPUTS} <= outputs.keys():
        raise ValueError(
            f"{file.path}: inputs {inputs} and outputs {sorted(outputs)}, expected "
            f"{found.input!r} and {', '.join(OUTPUTS)}; export the model again"
        )
    number = outputs["clip_probs"][-1]
    if number is not None and number != len(found.mids):
        raise ValueError(
            f"{file.path}: {number} outputs, but its metadata names "
            f"{len(found.mids)} classes; export the model again"
        )


def _front_end(found: Description) -> Any:
    """From waveforms [B, N] to the features that the file takes; None for none."""
    if found.input == "waveform":
        return None
    config = found.model.front_end
    if isinstance(config, LogMelConfig | SlaneyLogMelConfig):
        return log_mel(config)
    return Fbank(config) if isinstance(config, FbankConfig) else PreemphasisMel(config)
