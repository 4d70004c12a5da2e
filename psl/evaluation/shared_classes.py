"""A model of one class list on audio of another: the classes that both have.

Owns which columns belong together, by mid. Trains nothing: a class that the model does
not know cannot be scored.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from shards.format.classes import Classes


@dataclasses.dataclass(frozen=True)
class SharedClasses:
    """Classes that a model and audio have, in the order of the audio's list."""

    classes: Classes
    of_audio: list[int]
    """Their columns in the audio's targets."""
    of_model: list[int]
    """Their columns in the model's probabilities."""


def share_classes(audio: Classes, model: Classes, *, what: str) -> SharedClasses:
    """The classes that both lists have; ValueError naming ``what`` if there is none."""
    shared = [mid for mid in audio.mids if mid in model.index_of]
    if not shared:
        raise ValueError(
            f"{what}: no class of the audio ({audio.mids[0]}, ...) is one of the "
            f"model's ({model.mids[0]}, ...); classes match by mid, so pack the audio "
            "with the mids that the model was trained on"
        )
    of_audio = [audio.index_of[mid] for mid in shared]
    return SharedClasses(
        classes=Classes(tuple(shared), tuple(audio.names[c] for c in of_audio)),
        of_audio=of_audio,
        of_model=[model.index_of[mid] for mid in shared],
    )


class InClassesOfAudio(nn.Module):
    """A model whose probabilities [..., C] are in the order of the audio's classes.

    0 for the classes that it does not know.
    """

    def __init__(
        self, model: nn.Module, shared: SharedClasses, num_classes: int
    ) -> None:
        super().__init__()
        self._model, self._shared, self._num_classes = model, shared, num_classes

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """clip_probs [B, C] and frame_probs [B, T, C]."""
        clip_probs, frame_probs = self._model(waveform, num_samples)
        return self._ordered(clip_probs), self._ordered(frame_probs)

    def _ordered(self, probs: Tensor) -> Tensor:
        found = probs.new_zeros(*probs.shape[:-1], self._num_classes)
        found[..., self._shared.of_audio] = probs[..., self._shared.of_model]
        return found
