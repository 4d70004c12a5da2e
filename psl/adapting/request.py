"""What adapt was asked for, checked before torch is loaded and anything is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from psl.teachers.named import check_model
from psl.weights.kinds import is_onnx

HEADS_NAME = "heads"
"""With finetune, the folder in ``out`` of the model that training starts from."""


def check_request(
    model: str | Path,
    out: str | Path,
    *,
    places: Iterable[str | Path | None],
    seconds: float,
    keep: bool,
    finetune: bool,
) -> None:
    """ValueError for what cannot be."""
    if not 0.5 <= seconds <= 10:
        raise ValueError(f"seconds = {seconds:g}; expected 0.5 to 10")
    if is_onnx(model) or Path(model).suffix == ".tflite":
        raise ValueError(
            f"{model}: an exported file does not show its embeddings; give the run or "
            "checkpoint folder that it was made of"
        )
    if keep and finetune:
        raise ValueError(
            "the examples say nothing of the old classes, and training on them would "
            "unlearn these; leave out one of keep_old_classes and finetune"
        )
    check_model(model)
    for place in places:
        if place is not None and not Path(place).exists():
            raise ValueError(f"{place}: no such file or folder; expected sounds")
    if Path(out).exists() and (not finetune or Path(out, HEADS_NAME).exists()):
        raise ValueError(f"{out}: exists; choose another folder, or remove it")
