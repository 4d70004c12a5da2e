"""Which teacher, in words of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from psl.config import config
from shards.remote.places import is_url

Kind = Literal["run", "upstream", "huggingface"]
Activation = Literal["sigmoid", "softmax", "none"]


@config
class TeacherConfig:
    """One teacher; ``teacher: PATH`` is short for ``teacher: {path: PATH}``."""

    path: str
    """A run folder (its average, else its best checkpoint), a checkpoint folder, a .pt
    file with upstream's names or its URL, or a Hugging Face model: a folder or a Hub
    name."""
    kind: Kind | None = None
    """run, upstream or huggingface; null to tell by the path. Hub names need it."""
    weight: float = Field(default=1.0, ge=1e-9, le=1e9)
    """Weight in the mean of several teachers' probabilities, relative to their sum."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """upstream: SHA-256 that the file must have; a remote file is then kept in the
    cache. null to accept any file."""
    classes: str | None = None
    """class_labels_indices.csv in the order of the model's outputs; null for upstream:
    the audio's own order, for huggingface: the model's id2label."""
    activation: Activation | None = None
    """huggingface: function from logits to probabilities; none if the model returns
    probabilities; null for softmax if the model says that it has a single label, else
    sigmoid."""
    revision: str | None = None
    """huggingface: branch, tag or commit on the Hub; null for main."""
    trust_remote_code: bool = False
    """huggingface: run Python code that comes with the model. It may do anything."""


def _as_list(value: Any) -> Any:
    entries = value if isinstance(value, list | tuple) else [value]
    return [{"path": entry} if isinstance(entry, str) else entry for entry in entries]


TeacherList = Annotated[
    list[TeacherConfig], BeforeValidator(_as_list), Field(min_length=1)
]
"""A teacher, or several; a path may stand for one."""


def kind_of(config: TeacherConfig) -> Kind:
    """The kind that is named, else the one that the path looks like.

    Raises ValueError if a setting is of another kind.
    """
    kind = config.kind
    if kind is None and (
        is_url(config.path) or Path(config.path).suffix in (".pt", ".pth", ".pkl")
    ):
        kind = "upstream"
    if kind is None:
        kind = "huggingface" if Path(config.path, "config.json").exists() else "run"
    theirs = {
        "run": (),
        "upstream": ("sha256", "classes"),
        "huggingface": ("classes", "activation", "revision", "trust_remote_code"),
    }[kind]
    for name in ("sha256", "classes", "activation", "revision", "trust_remote_code"):
        if getattr(config, name) and name not in theirs:
            raise ValueError(
                f"teacher {config.path}: {name} is not for a teacher of kind {kind}; "
                "leave it out, or set kind"
            )
    return kind
