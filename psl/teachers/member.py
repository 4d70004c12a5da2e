"""One teacher's model, and how its outputs become our classes.

Owns the mapping by name, the way of a batch through a model, compiled or not, and what
of a teacher goes into its identity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from psl.data.batch import Group, to_device
from psl.teachers.config import Activation
from shards.format.classes import Classes

MAX_NAMED = 5
"""Missing classes that a message names."""
ROUNDING = 1e-6
"""By which a mean of probabilities in float32 may leave [0, 1]."""
Features = Callable[[Tensor, Tensor], list[Group]]
"""Waveforms [B, N] float32 and lengths [B] on the host -> what a model takes of them.
Threads may call it at the same time."""


@dataclass(frozen=True)
class Member:
    """A model as it was loaded."""

    model: nn.Module
    """``waveform`` [B, N] float32 in [-1, 1) at ``sample_rate`` and ``lengths`` [B]
    int64, or if there are ``features`` a Group's inputs -> scores [B, outputs]; in
    evaluation mode."""
    sample_rate: int
    """Hz."""
    columns: list[int] | None
    """[C] which output is which of our classes; None for all, in order."""
    identity: dict[str, Any]
    """What decides its probabilities: plain values, no paths."""
    activation: Activation = "none"
    """From scores to probabilities."""
    features: Features | None = None
    """What is computed of the waveform on the host, if anything is."""


class FittedMember(nn.Module):
    """A member that takes the audio's rate and gives the audio's classes.

    Invalid probabilities become NaN, and is counted in ``num_bad``.
    """

    num_bad: Tensor
    _columns: Tensor | None

    def __init__(self, member: Member, sample_rate: int) -> None:
        super().__init__()
        self.model = member.model
        self._features, self._activation = member.features, member.activation
        self._rates = (sample_rate, member.sample_rate)
        self._compiled_size: int | None = None
        columns = None if member.columns is None else torch.tensor(member.columns)
        self.register_buffer("_columns", columns, persistent=False)
        self.register_buffer("num_bad", torch.zeros(()), persistent=False)

    @property
    def has_features(self) -> bool:
        """Whether ``prepare`` computes anything."""
        return self._features is not None or self._rates[0] != self._rates[1]

    def compile_for(self, batch_size: int) -> None:
        """Compile the model for groups of whole chunks, filled up to ``batch_size``.

        One shape: any other would be compiled anew, and in the end not at all. Short
        chunks, of which each length is a shape of its own, go through it as it is.
        """
        self._compiled_size = batch_size
        self.model.compile(dynamic=False)

    def prepare(self, waveform: Tensor, lengths: Tensor) -> list[Group] | None:
        """What ``forward`` would compute on the host; None if that is nothing.

        Threads may call it while another is in ``forward``.
        """
        if not self.has_features:
            return None
        heard, lengths = resample(waveform.cpu(), lengths.cpu(), *self._rates)
        if self._features is not None:
            return self._features(heard, lengths)
        inputs = {"waveform": heard, "lengths": lengths}
        return [Group(torch.arange(len(heard)), inputs, whole=True)]

    def forward(
        self, waveform: Tensor, lengths: Tensor, groups: list[Group] | None = None
    ) -> Tensor:
        """Probabilities [B, C] float32 of waveforms [B, N] with lengths [B].

        ``groups`` is what ``prepare`` gave for them, if it was asked.
        """
        groups = groups or self.prepare(waveform, lengths)
        if groups is None:
            probs = self._score({"waveform": waveform, "lengths": lengths}, whole=True)
        else:
            device = waveform.device
            scores = [
                self._score(
                    {name: to_device(x, device) for name, x in group.inputs.items()},
                    whole=group.whole,
                )
                for group in groups
            ]
            positions = torch.cat([group.positions for group in groups])
            probs = torch.cat(scores)[to_device(positions, device).argsort()]
        return self._checked(_activated(probs, self._activation))

    def _score(self, inputs: dict[str, Tensor], *, whole: bool) -> Tensor:
        """[n, outputs] float32 of the model for inputs [n, ...]."""
        if self._compiled_size is None:
            return self.model(**inputs).float()
        if not whole:
            return self.model.forward(**inputs).float()  # not what compile() wrapped
        number = len(next(iter(inputs.values())))
        missing = self._compiled_size - number
        filled = {
            name: torch.cat([x, x[:1].expand(missing, *x.shape[1:])])
            for name, x in inputs.items()
        }
        return self.model(**filled)[:number].float()

    def _checked(self, probs: Tensor) -> Tensor:
        """[B, C] of [B, outputs]; NaN, and counted, where one is not in [0, 1]."""
        if self._columns is not None:
            probs = probs[:, self._columns]
        good = (probs >= -ROUNDING) & (probs <= 1 + ROUNDING)
        self.num_bad.add_((~good).any())
        return probs.clamp(0, 1).where(good, torch.nan)


def _activated(scores: Tensor, activation: Activation) -> Tensor:
    if activation == "softmax":
        return scores.softmax(dim=1)
    return scores.sigmoid() if activation == "sigmoid" else scores


def resample(
    waveform: Tensor, lengths: Tensor, old_rate: int, new_rate: int
) -> tuple[Tensor, Tensor]:
    """Waveforms [B, N] float32 and lengths [B] at ``new_rate`` Hz, on the host.

    Each example for itself, by soxr: labels of a real teacher differ by up to 0.5 from
    those through torchaudio's default filter, and fit the truth less (2026-11-28).
    """
    waveform = waveform.float()
    if old_rate == new_rate:
        return waveform, lengths
    new_lengths = (lengths * new_rate + old_rate - 1) // old_rate
    total = -(-waveform.shape[1] * new_rate // old_rate)
    heard = np.zeros((len(waveform), total), np.float32)
    examples = zip(heard, waveform.numpy(), lengths.tolist(), strict=True)
    for (row, samples, length), num in zip(examples, new_lengths.tolist(), strict=True):
        found = soxr.resample(samples[:length], old_rate, new_rate)[:num]
        row[: len(found)] = found
    return torch.from_numpy(heard), new_lengths


def match_outputs(outputs: Sequence[str], classes: Classes, *, where: str) -> list[int]:
    """[C] which of ``outputs``, display names or mids, is which of ``classes``.

    Names must be the same but for blanks at the ends. Outputs that are none of the
    classes are left out. Raises ValueError naming what is missing or duplicate.
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
