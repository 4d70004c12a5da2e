"""A trained model as a function from waveforms to probabilities.

Owns the public ``psl.load`` and ``Tagger``: what they accept, and what they give back.
psl/weights/checkpoint.py reads the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from psl.distributed.runtime import move_model
from psl.evaluation.scoring import MIN_SECONDS
from psl.features.log_mel import float_samples
from psl.tagging.readers import open_audio
from psl.tagging.records import Record, Settings, name_of, records_of
from psl.tagging.rules import Rules, read_thresholds
from psl.tagging.windows import Cut, Window, cut_windows
from psl.teachers.named import checkpoint_of
from psl.weights.checkpoint import load_checkpoint
from psl.weights.kinds import is_onnx
from psl.weights.onnx_model import OnnxModel
from shards.format.classes import Classes

Array = TypeVar("Array", np.ndarray, Tensor)

MAX_AMPLITUDE = 8.0
"""Louder samples are taken for unscaled integers; mixing a few signals stays below."""

WHOLE = Cut()
"""A file is one window."""


class Tagger:
    """A model in evaluation mode, called with waveforms.

    >>> tagger = psl.load("runs/psl_2s")
    >>> clip_probs, frame_probs = tagger(waveform)  # [B, N] float in [-1, 1]
    >>> best = clip_probs[0].argmax()
    >>> tagger.classes.names[best]
    'Speech'
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: Classes,
        sample_rate: int,
        device: str | torch.device | None = None,
    ) -> None:
        """``device`` None is the GPU, if there is one."""
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        """Where the model computes."""
        self.model = move_model(model, self.device).eval().requires_grad_(False)
        """[B, N] and lengths [B] -> clip and frame probabilities; psl.build_model."""
        self.classes = classes
        """``.names`` and ``.mids``, in the order of the probabilities."""
        self.sample_rate = sample_rate
        """Rate that waveforms must have, Hz."""

    def __repr__(self) -> str:
        return (
            f"<Tagger {type(self.model).__name__}: {len(self.classes)} classes, "
            f"{self.sample_rate} Hz, {self.device}>"
        )

    @property
    def frame_seconds(self) -> float | None:
        """Seconds from the start of one frame of ``frame_probs`` to the next.

        None if the model does not say. An AST's frames are its windows, 10 s long by
        default.
        """
        samples = getattr(self.model, "frame_samples", None)
        return None if samples is None else samples / self.sample_rate

    @property
    def frame_samples(self) -> int | None:
        """The same in samples."""
        return getattr(self.model, "frame_samples", None)

    def score(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``clip_probs`` and ``frame_probs`` of waveforms [B, N], as by a call."""
        return self(waveform)

    def windows(
        self,
        place: str | Path,
        cut: Cut = WHOLE,
        *,
        on_seconds: Callable[[float | None, float], None] = lambda total, now: None,
    ) -> Iterator[Window]:
        """The windows of an audio file of any length, in order, in bounded memory.

        ``place`` is a path, an http(s) URL, or "-" for a file on stdin. ``on_seconds``
        hears of the length of the file, None if not known, and how far scoring is.
        Raises ShardError if it cannot be read, ValueError for frames of a model that
        has none.
        """
        with open_audio(place, sample_rate=self.sample_rate) as audio:
            yield from cut_windows(
                audio.blocks,
                self.score,
                rate=self.sample_rate,
                cut=cut,
                frame_samples=self.frame_samples,
                on_seconds=lambda now: on_seconds(audio.seconds, now),
            )

    def records(
        self,
        place: str | Path,
        settings: Settings,
        on_seconds: Callable[[float | None, float], None] = lambda total, now: None,
    ) -> Iterator[Record]:
        """What psl.tag reports of a file; see psl/tagging/records.py."""
        windows = self.windows(place, settings.cut, on_seconds=on_seconds)
        return records_of(name_of(place), windows, self.classes, settings)

    def tag(
        self,
        place: str | Path,
        *,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        frames: bool = False,
        threshold: float | None = None,
        thresholds: str | Path | None = None,
        top_k: int | None = None,
        every_class: bool = False,
        events: bool = False,
        min_seconds: float = 0.0,
        max_gap_seconds: float = 0.0,
    ) -> Iterator[Record]:
        """What is heard when in an audio file of any length, as ``psl tag --json``.

        ``place`` is a path, an http(s) URL, or "-" for a file on stdin; memory does
        not grow with its length. Gives {"file", "start", "end", "tags": [{"name",
        "mid", "probability"}]} for each window, highest first; with ``events``,
        {"file", "start", "end", "name", "mid", "probability"} for each stretch of
        windows of one class over its threshold. Without ``window_seconds`` or
        ``frames`` the file is one window. ``thresholds`` is a file of psl.thresholds.

        >>> for window in tagger.tag("yard.flac", window_seconds=2, threshold=0.3):
        ...     print(window["start"], [tag["name"] for tag in window["tags"]])

        Raises ValueError for settings that cannot be, and ShardError if the file cannot
        be read.
        """
        default, by_class = threshold, None
        if thresholds is not None:
            stored, by_class = read_thresholds(thresholds, self.classes)
            default = stored if threshold is None else threshold
        rules = Rules(
            threshold=default,
            class_thresholds=by_class,
            top_k=top_k,
            every_class=every_class,
            min_seconds=min_seconds,
            max_gap_seconds=max_gap_seconds,
        )
        settings = Settings(Cut(window_seconds, hop_seconds, frames), rules, events)
        return (r for r in self.records(place, settings) if "seconds" not in r)

    def fingerprint(self) -> str:
        """Hex SHA-256 of the classes and weights."""
        digest = hashlib.sha256(self.classes.sha256.encode())
        if isinstance(self.model, OnnxModel):  # has no weights of its own
            digest.update(self.model.file.sha256.encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def __call__(
        self, waveform: Array, lengths: Array | None = None
    ) -> tuple[Array, Array]:
        """``clip_probs`` [B, C] and ``frame_probs`` [B, T, C], float32 in [0, 1].

        ``waveform`` [B, N] holds floats in [-1, 1], mono at ``sample_rate``: NumPy or
        torch, and so are the results, a tensor's on the tensor's device. ``lengths``
        [B] are the samples before the padding of each, where a batch is padded; frames
        of padding do not count in ``clip_probs``. A waveform shorter than 0.5 s is
        padded, as psl.evaluate does.

        Raises ValueError for integers, another shape, samples that are not finite or
        far outside [-1, 1], and lengths outside 1 to N.
        """
        given = _as_tensor(waveform)
        samples = float_samples(given).to(self.device)
        _check_samples(samples)
        num_samples = _check_lengths(lengths, samples)
        missing = max(0, round(MIN_SECONDS * self.sample_rate) - samples.shape[1])
        samples = nn.functional.pad(samples, (0, missing))
        clip_probs, frame_probs = self.model(samples, num_samples)
        if isinstance(waveform, np.ndarray):
            return clip_probs.cpu().numpy(), frame_probs.cpu().numpy()
        return clip_probs.to(given.device), frame_probs.to(given.device)


def _as_tensor(waveform: np.ndarray | Tensor) -> Tensor:
    """A tensor that shares no memory with an array, which may be of any layout."""
    if isinstance(waveform, np.ndarray) and waveform.dtype.kind == "f":
        return torch.from_numpy(np.array(waveform, np.float32, order="C"))
    return torch.as_tensor(waveform)


def _check_samples(samples: Tensor) -> None:
    """ValueError unless samples [B, N] look like audio in [-1, 1]."""
    if not samples.numel():
        raise ValueError(
            f"waveforms of shape {list(samples.shape)} hold no samples; expected "
            "[B, N] with B and N of 1 or more"
        )
    largest = float(samples.abs().amax())
    if not largest <= MAX_AMPLITUDE:  # also where it is NaN
        raise ValueError(
            f"waveforms have samples of magnitude {largest:g}; expected finite floats "
            "in [-1, 1]; divide int16 by 32768"
        )


def _check_lengths(lengths: np.ndarray | Tensor | None, samples: Tensor) -> Tensor:
    """[B] int64 on the device of ``samples`` [B, N]; N where there are no lengths."""
    batch, longest = samples.shape
    if lengths is None:
        return torch.full((batch,), longest, device=samples.device)
    found = torch.as_tensor(lengths)
    if found.shape != (batch,) or found.is_floating_point() or found.is_complex():
        raise ValueError(
            f"lengths are {found.dtype} {list(found.shape)}; expected integers "
            f"[{batch}], the samples of each waveform"
        )
    if found.dtype == torch.bool or not ((found >= 1) & (found <= longest)).all():
        raise ValueError(
            f"lengths are {found.tolist()}; expected 1 to {longest}, the samples "
            "before the padding of each waveform"
        )
    return found.to(samples.device, torch.int64)


def load(path: str | Path, *, device: str | torch.device | None = None) -> Tagger:
    """The tagger that a training run made.

    ``path`` is a run folder, which stands for its average if it has one and else for
    its best checkpoint, a checkpoint folder, the name of a published teacher that
    ``psl teachers fetch`` fetched, or what ``psl export`` made of one: a folder, or an
    ONNX file, which onnxruntime runs. ``device`` None is the GPU, if there is one.

    >>> tagger = psl.load("runs/psl_2s", device="cpu")

    Raises ShardError if there is no checkpoint or it is damaged, ValueError if another
    version of this program wrote it, or onnxruntime is not installed.
    """
    if Path(path).suffix.lower() == ".tflite":
        raise ValueError(
            f"{path}: psl.load does not run TFLite; give the ONNX file, or the run"
        )
    if is_onnx(path):
        model = OnnxModel(path)
        return Tagger(
            model,
            classes=model.description.classes,
            sample_rate=model.description.sample_rate,
            device=device,
        )
    checkpoint = load_checkpoint(checkpoint_of(str(path)))
    return Tagger(
        checkpoint.build_model(),
        classes=checkpoint.classes,
        sample_rate=checkpoint.model_config.front_end.sample_rate,
        device=device,
    )
