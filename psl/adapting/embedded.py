"""Examples -> embeddings of their windows.

Owns how a sound is cut into windows, that silent ones count for nothing, and what is
left out: unreadable, silent and repeated sounds. One example is in memory at a time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from psl.adapting.sounds import Example, Sounds
from psl.evaluation.scoring import MIN_SECONDS
from psl.models.embedding import Embedding, embed
from psl.tagging.windows import MIN_LEVEL_DBFS
from shards.errors import ShardError

_log = logging.getLogger(__name__)

_WINDOWS_AT_A_TIME = 16


@dataclass(frozen=True)
class Embedded:
    """Windows of examples."""

    embedding: Embedding
    """Of M windows."""
    example_of: Tensor
    """[M] int64, the example that a window is from, ascending."""
    examples: tuple[Example, ...]
    """Those that are used."""
    rejected: list[list[str]]
    """Report lines (file, "rejected", reason)."""
    num_repeated: int
    """Examples left out that have the samples of another of their class."""


def embed_sounds(
    model: nn.Module, sounds: Sounds, *, sample_rate: int, seconds: float
) -> Embedded:
    """The embeddings of all windows of ``seconds`` of ``sounds``.

    ``model`` is in evaluation mode. Raises ShardError if two examples of different
    classes have the same samples, or no example of a class can be used.
    """
    device = next(model.parameters()).device
    size = round(seconds * sample_rate)
    kept: list[Example] = []
    rejected: list[list[str]] = []
    seen: dict[bytes, Example] = {}
    frames: list[Tensor] = []
    counts: list[Tensor] = []
    numbers: list[int] = []
    repeated = 0
    for example in tqdm(
        sounds.examples, desc="listen", unit="sound", disable=None, leave=False
    ):
        try:
            pcm = example.load(sample_rate)
            cut = windows_of(pcm, size)
        except ShardError as error:
            rejected.append([example.where, "rejected", str(error)])
            continue
        other = seen.setdefault(hashlib.sha256(pcm.tobytes()).digest(), example)
        if other is not example:
            _check_same(other, example, sounds.names)
            repeated += 1
            continue
        for batch in _batches(cut, round(MIN_SECONDS * sample_rate)):
            lengths = torch.tensor([len(window) for window in batch])
            padded = nn.utils.rnn.pad_sequence(
                [torch.from_numpy(window) for window in batch], batch_first=True
            )
            found = embed(model, padded.to(device), lengths.to(device))
            frames += list(found.frames.cpu())
            count = found.num_frames
            counts += (
                [f.shape[0] for f in found.frames]
                if count is None
                else list(count.cpu())
            )
        numbers += [len(kept)] * len(cut)
        kept.append(example)
    _say_rejected(rejected, repeated)
    _check_left(kept, sounds, rejected)
    return Embedded(
        _stack(frames, counts), torch.tensor(numbers), tuple(kept), rejected, repeated
    )


def windows_of(pcm: np.ndarray, size: int) -> list[np.ndarray]:
    """Windows [N] float32 of ``size`` samples one after the other that are not silent.

    A rest shorter than half a window is left out, unless there is no other. Raises
    ShardError if all are silent.
    """
    waveform = pcm.astype(np.float32) / 32768
    starts = range(0, max(1, len(pcm) - size // 2 + 1), size)
    cut = [waveform[start : start + size] for start in starts]
    least = 10 ** (MIN_LEVEL_DBFS / 10)
    heard = [window for window in cut if window.var(dtype=np.float64) > least]
    if not heard:
        raise ShardError(f"silence (below {MIN_LEVEL_DBFS:g} dB of full scale)")
    return heard


def _batches(cut: list[np.ndarray], least: int) -> list[list[np.ndarray]]:
    """Batches of windows; one that is too short for a model is padded."""
    long = [np.pad(w, (0, max(0, least - len(w)))) for w in cut]
    step = _WINDOWS_AT_A_TIME
    return [long[start : start + step] for start in range(0, len(long), step)]


def _stack(frames: Sequence[Tensor], counts: Sequence[int | Tensor]) -> Embedding:
    """One embedding of windows that may have different numbers of frames."""
    padded = nn.utils.rnn.pad_sequence(list(frames), batch_first=True)
    longest = padded.shape[1]
    num_frames = torch.tensor([min(int(count), longest) for count in counts])
    return Embedding(padded, None if longest == 1 else num_frames)


def _check_same(one: Example, two: Example, names: Sequence[str]) -> None:
    if one.label != two.label:
        first, second = (
            "background" if e.label is None else f"class {names[e.label]!r}"
            for e in (one, two)
        )
        raise ShardError(
            f"{one.where} ({first}) and {two.where} ({second}) are the same sound; "
            "keep one of them"
        )


def _say_rejected(rejected: Sequence[Sequence[str]], repeated: int) -> None:
    if rejected:
        _log.warning(
            "%d sounds cannot be used (first: %s)", len(rejected), _reason(rejected[0])
        )
    if repeated:
        _log.warning(
            "%d sounds are left out: the same as others of their class", repeated
        )


def _reason(row: Sequence[str]) -> str:
    """Where and why of a line of the report; some reasons name the file already."""
    where, _, reason = row
    return reason if reason.startswith(where) else f"{where}: {reason}"


def _check_left(
    kept: Sequence[Example], sounds: Sounds, rejected: Sequence[Sequence[str]]
) -> None:
    left = {example.label for example in kept}
    for label, name in enumerate(sounds.names):
        if label not in left:
            reason = f" (first of all: {_reason(rejected[0])})" if rejected else ""
            raise ShardError(f"class {name!r}: no sound of it can be used{reason}")
