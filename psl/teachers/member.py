"""One teacher's model, and how its outputs become our classes.

Owns the mapping by name and what of a teacher goes into its identity.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from psl._torchaudio import torchaudio
from shards.classes import Classes

MAX_NAMED = 5
"""Missing classes that a message names."""
ROUNDING = 1e-6
"""By which a mean of probabilities in float32 may leave [0, 1]."""


@dataclass(frozen=True)
class Member:
    """A model as it was loaded."""

    model: nn.Module
    """Waveforms [B, N] float32 in [-1, 1) at ``sample_rate`` and their lengths [B]
    int64 -> probabilities [B, outputs]; in evaluation mode."""
    sample_rate: int
    """Hz."""
    columns: list[int] | None
    """[C] which output is which of our classes; None for all, in order."""
    identity: dict[str, Any]
    """What decides its probabilities: plain values, no paths."""


class FittedMember(nn.Module):
    """A member that takes the audio's rate and gives the audio's classes.

    What is no probability becomes NaN, and is counted in ``num_bad``.
    """

    num_bad: Tensor
    _columns: Tensor | None

    def __init__(self, member: Member, sample_rate: int) -> None:
        super().__init__()
        self.model = member.model
        self._rates = (sample_rate, member.sample_rate)
        columns = None if member.columns is None else torch.tensor(member.columns)
        self.register_buffer("_columns", columns, persistent=False)
        self.register_buffer("num_bad", torch.zeros(()), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Probabilities [B, C] float32 of waveforms [B, N] with lengths [B]."""
        probs = self.model(*resample(waveform, lengths, *self._rates)).float()
        if self._columns is not None:
            probs = probs[:, self._columns]
        good = (probs >= -ROUNDING) & (probs <= 1 + ROUNDING)
        self.num_bad.add_((~good).any())
        return probs.clamp(0, 1).where(good, torch.nan)


def resample(
    waveform: Tensor, lengths: Tensor, old_rate: int, new_rate: int
) -> tuple[Tensor, Tensor]:
    """Waveforms [B, N] and lengths [B] at ``new_rate`` Hz; each example for itself."""
    if old_rate == new_rate:
        return waveform, lengths
    with torch.autocast(waveform.device.type, enabled=False):
        waveform = torchaudio.functional.resample(waveform, old_rate, new_rate)
    return waveform, (lengths * new_rate + old_rate - 1) // old_rate


def match_outputs(outputs: Sequence[str], classes: Classes, *, where: str) -> list[int]:
    """[C] which of ``outputs``, display names or mids, is which of ``classes``.

    Names must be the same but for blanks at the ends. Outputs that are none of the
    classes are left out. Raises ValueError naming what is missing or stands twice.
    """
    names = [name.strip() for name in outputs]
    counts = Counter(names)
    number = {name: place for place, name in enumerate(names)}
    columns, missing = [], []
    for mid, name in zip(classes.mids, classes.names, strict=True):
        found = next((n for n in (mid, name.strip()) if n in number), None)
        if found is None:
            missing.append(f"{name!r} ({mid})")
        elif counts[found] > 1:
            raise ValueError(
                f"{where}: {counts[found]} outputs are called {found!r}; state the "
                "order of the outputs with teacher.classes"
            )
        else:
            columns.append(number[found])
    if missing:
        more = len(missing) - MAX_NAMED
        raise ValueError(
            f"{where}: {len(missing)} of {len(classes)} classes are not among its "
            f"{len(names)} outputs ({', '.join(names[:3])}, ...): "
            + ", ".join(missing[:MAX_NAMED])
            + (f" and {more} more" if more > 0 else "")
            + "; use another teacher, pack the audio with its class list, or state the "
            "order of the outputs with teacher.classes"
        )
    if len(set(columns)) < len(columns):
        raise ValueError(f"{where}: one output for two classes; give each its own name")
    return columns


def match_stated(
    stated: Classes, num_outputs: int, classes: Classes, *, where: str
) -> list[int]:
    """[C] which output is which of ``classes``, for outputs in ``stated`` order.

    Raises ValueError if their number is another, or a class is missing.
    """
    if len(stated) != num_outputs:
        raise ValueError(
            f"{where}: {num_outputs} outputs, but the class list given for it has "
            f"{len(stated)} classes; give its class list as teacher.classes"
        )
    return match_outputs(stated.mids, classes, where=where)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of names, types, shapes and bytes, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
