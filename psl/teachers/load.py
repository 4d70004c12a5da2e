"""TeacherConfigs -> one Teacher that fits the audio.

Owns the mean over several, and which member produced an invalid probability.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from psl.data.batch import Prepared
from psl.teachers import huggingface, onnx_graph, upstream
from psl.teachers.config import TeacherConfig, kind_of
from psl.teachers.member import FittedMember, Member, match_stated
from psl.teachers.named import resolve
from psl.weights.checkpoint import load_checkpoint
from shards.dataset.cache import ShardCache
from shards.format.index import Index
from shards.system.files import sha256_of


class Ensemble(nn.Module):
    """The weighted mean of the probabilities of one or more members."""

    def __init__(
        self, members: Sequence[FittedMember], weights: Sequence[float]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.shares = [weight / sum(weights) for weight in weights]

    @property
    def _fitted(self) -> list[FittedMember]:
        return cast(list[FittedMember], list(self.members))

    def num_bad(self) -> Tensor:
        """[members] batches of each that held an invalid probability."""
        return torch.stack([member.get_buffer("num_bad") for member in self._fitted])

    @property
    def has_features(self) -> bool:
        """Whether ``prepare`` computes anything."""
        return any(member.has_features for member in self._fitted)

    def compile_for(self, batch_size: int) -> None:
        """Compile all members for batches of up to ``batch_size`` chunks."""
        for member in self._fitted:
            member.compile_for(batch_size)

    def prepare(self, waveform: Tensor, lengths: Tensor) -> Prepared:
        """What ``forward`` would compute on the host, for it to be given.

        Threads may call it while another is in ``forward``; each chunk's is the same.
        """
        return [member.prepare(waveform, lengths) for member in self._fitted]

    def forward(
        self, waveform: Tensor, lengths: Tensor, prepared: Prepared | None = None
    ) -> Tensor:
        """Probabilities [B, C] float32 of waveforms [B, N] with lengths [B]."""
        prepared = prepared or [None] * len(self.members)
        probs = [
            share * member(waveform, lengths, groups)
            for share, member, groups in zip(
                self.shares, self.members, prepared, strict=True
            )
        ]
        return torch.stack(probs).sum(dim=0).clamp(max=1.0)


@dataclass(frozen=True)
class Teacher:
    """What labels chunks."""

    names: tuple[str, ...]
    """The path of each member, for messages."""
    model: Ensemble
    """Waveforms [B, N] float32 in [-1, 1) at the audio's rate, their lengths [B] int64
    and what ``model.prepare`` gave for them, if it was asked -> probabilities [B, C]
    float32 of the audio's classes; an example's do not depend on its batch. NaN for
    what is none."""
    sample_rate: int
    """Of the waveforms, Hz."""
    members: list[dict[str, Any]]
    """For provenance: of each member, what decides its probabilities."""

    @property
    def identity(self) -> str:
        """Hex SHA-256 of weights and settings of all members."""
        return sha256_of(json.dumps(self.members, sort_keys=True).encode())

    def blame(self, num_bad: Tensor | None = None) -> str:
        """The teacher's name, or the members' that gave an invalid probability.

        ``num_bad`` [members] counts them; None for the model's own, in this process.
        Waits for the device.
        """
        number = len(self.names)
        counts = self.model.num_bad() if num_bad is None else num_bad
        bad = [
            f"{name} (member {place} of {number})"
            for place, (name, count) in enumerate(
                zip(self.names, counts.tolist(), strict=True)
            )
            if count and number > 1
        ]
        return " and ".join(bad or self.names)


def load_teacher(
    configs: Sequence[TeacherConfig], audio: Index, *, cache: ShardCache
) -> Teacher:
    """The teacher of ``configs`` for ``audio``, on the CPU, in evaluation mode.

    Files at a URL are kept next to the shards of ``cache``. Raises ValueError or
    ShardError if a teacher is not there, damaged, or has not all classes of the audio.
    """
    found = [resolve(config, cache) for config in configs]
    members = [_load_member(config, audio, cache) for config in found]
    rate = audio.properties["sample_rate"]
    total = sum(config.weight for config in configs)
    return Teacher(
        names=tuple(config.path for config in configs),
        model=Ensemble(
            [FittedMember(member, rate) for member in members],
            [config.weight for config in configs],
        ).eval(),
        sample_rate=rate,
        members=[
            member.identity
            | {"sample_rate": member.sample_rate}
            | ({"share": config.weight / total} if len(configs) > 1 else {})
            for config, member in zip(configs, members, strict=True)
        ],
    )


def _load_member(config: TeacherConfig, audio: Index, cache: ShardCache) -> Member:
    match kind_of(config):
        case "upstream":
            return upstream.load(config, audio.classes, cache)
        case "huggingface":
            return huggingface.load(config, audio.classes)
        case "onnx":
            return onnx_graph.load(config, audio.classes)
        case _:
            return _load_run(config, audio)


def _load_run(config: TeacherConfig, audio: Index) -> Member:
    """Our own checkpoint, which must have all classes of the audio."""
    checkpoint = load_checkpoint(config.path)
    own, columns = checkpoint.classes, None
    if own.mids != audio.classes.mids:
        where = f"teacher {config.path}"
        columns = match_stated(own, len(own), audio.classes, where=where)
    return Member(
        model=upstream.ClipProbs(checkpoint.build_model()),
        sample_rate=checkpoint.model_config.front_end.sample_rate,
        columns=columns,
        identity={
            "kind": "run",
            "weights_sha256": checkpoint.model_sha256,
            "model": asdict(checkpoint.model_config),
        }
        | ({} if columns is None else {"outputs_sha256": own.sha256}),
    )
