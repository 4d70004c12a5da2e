"""Which teacher, in words of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from psl.config import Seconds, config
from psl.features.config import Rate
from psl.weights.kinds import SUFFIXES, is_file_of_weights, is_hub_model, is_onnx
from shards.remote.places import is_url

Kind = Literal["run", "upstream", "huggingface", "onnx"]
Activation = Literal["sigmoid", "softmax", "none"]


@config
class OnnxConfig:
    """What an ONNX file of others takes and gives.

    Also as a file beside it, model.yaml or model.json for model.onnx. Exports of ours
    need none.
    """

    sample_rate: Rate | None = None
    """Rate of the audio that it takes, Hz; needed."""
    classes: str | None = None
    """class_labels_indices.csv in the order of its outputs; needed, here or as
    teacher.classes. In a file beside the model: relative to that file."""
    activation: Activation | None = None
    """none if it returns probabilities, else the function that makes them; needed, here
    or as teacher.activation."""
    input: str | None = None
    """Name of the input that takes audio or features; null for the only one."""
    output: str | None = None
    """Name of the output with the scores; null for the only one."""
    seconds: Seconds | None = None
    """Length that it takes, s; null for any. Shorter chunks are padded with zeros,
    longer ones cut into several, whose mean counts."""
    over_frames: Literal["mean", "max"] = "mean"
    """How scores [B, T, C] of frames become those of a chunk, as probabilities."""
    front_end: dict[str, str | int | float | None] | None = None
    """Features that it takes in place of waveforms: name (log_mel, slaney_log_mel,
    fbank or preemphasis_mel) and the keys of that front end, as model.front_end has
    them."""
    layout: Literal["B1FT", "BFT", "BTF", "B1TF"] = "BFT"
    """Axes of the features: batch, 1, mel bands, frames."""


@config
class TeacherConfig:
    """One teacher; ``teacher: PATH`` is short for ``teacher: {path: PATH}``."""

    path: str
    """A run folder (its average, else its best checkpoint), a checkpoint folder, a file
    of weights with upstream's names (.pt, .pth, .bin, .ckpt, .safetensors), its folder
    or URL, an ONNX file, a Hugging Face model (a folder or a Hub name), or the name of
    a published teacher (psl teachers lists them), unless a file or folder has it."""
    kind: Kind | None = None
    """run, upstream, onnx or huggingface; null to tell by what is there. Hub names need
    it."""
    weight: float = Field(default=1.0, ge=1e-9, le=1e9)
    """Weight in the mean of several teachers' probabilities, relative to their sum."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """upstream, onnx: SHA-256 that the file must have; a remote file is then kept in
    the cache. null to accept any file."""
    classes: str | None = None
    """class_labels_indices.csv in the order of the model's outputs; null for upstream:
    the audio's own order, for huggingface: the model's id2label."""
    activation: Activation | None = None
    """huggingface, onnx: function from logits to probabilities; none if the model
    returns probabilities; null for what its problem_type says: softmax for a single
    label, sigmoid for several. Needed where that is not said, except for AudioSet's
    classes (sigmoid)."""
    revision: str | None = None
    """huggingface: branch, tag or commit on the Hub; null for main."""
    trust_remote_code: bool = False
    """huggingface: run Python code that comes with the model. It may do anything."""
    onnx: OnnxConfig | None = None
    """onnx: what a file of others takes and gives; null for the file beside it."""


def _as_list(value: Any) -> Any:
    entries = value if isinstance(value, list | tuple) else [value]
    return [{"path": entry} if isinstance(entry, str) else entry for entry in entries]


TeacherList = Annotated[
    list[TeacherConfig], BeforeValidator(_as_list), Field(min_length=1)
]
"""A teacher, or several; a path may stand for one."""


def kind_of(config: TeacherConfig) -> Kind:
    """The kind that is named, else that of what is found at the path.

    Raises ValueError if a setting is of another kind.
    """
    kind = config.kind or _look(config.path)
    theirs = {
        "run": (),
        "upstream": ("sha256", "classes"),
        "huggingface": ("classes", "activation", "revision", "trust_remote_code"),
        "onnx": ("sha256", "classes", "activation", "onnx"),
    }[kind]
    for name in (
        *("sha256", "classes", "activation", "revision", "trust_remote_code", "onnx"),
    ):
        if getattr(config, name) and name not in theirs:
            raise ValueError(
                f"teacher {config.path}: {name} is not for a teacher of kind {kind}; "
                "leave it out, or set kind"
            )
    return kind


def _look(path: str) -> Kind:
    """The kind of what is found at ``path``; a file's content is told when it is read.

    A path where nothing is counts as what its name looks like.
    """
    if is_onnx(path):
        return "onnx"
    if is_url(path) or is_file_of_weights(path):
        return "upstream"
    if is_hub_model(path):
        return "huggingface"
    is_lost = not Path(path).exists() and Path(path).suffix in SUFFIXES
    return "upstream" if is_lost else "run"
