"""Embeddings are what the last layer of every family hears."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from psl.models.embedding import embed, last_layer, probabilities
from psl.models.families import build_model
from tests.tiny_models import TINY

NAMES = [name for name in TINY if name != "efficientnet_b2"]
MODELS: list[tuple[str, dict[str, str]]] = [(name, {}) for name in NAMES]
MODELS += [("mn", {"pooling": "clip"}), ("cnn14", {"pooling": "clip"})]


@pytest.mark.parametrize(("family", "more"), MODELS)
def test_embeddings_and_the_last_layer_give_the_probabilities(
    family: str, more: dict[str, str]
) -> None:
    """A head that is fitted on something else would fail once it is in the model."""
    torch.manual_seed(0)
    model: Any = build_model(family, num_classes=3, **{**TINY[family], **more}).eval()
    rate = model.config.front_end.sample_rate
    waveform, lengths = torch.randn(2, rate) * 0.1, torch.tensor([rate, rate * 3 // 4])

    embedding = embed(model, waveform, lengths)

    last = model.get_submodule(last_layer(model.config))
    assert isinstance(last, nn.Linear)
    assert embedding.clip.shape == (2, last.in_features)
    with torch.inference_mode():
        expected, _ = model(waveform, lengths)
        found = probabilities(embedding, last.weight, last.bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_model_of_others_has_no_embeddings() -> None:
    """Adapting an exported file would end in a traceback."""
    with pytest.raises(ValueError, match="does not show its embeddings"):
        embed(nn.Linear(4, 2), torch.zeros(1, 4), torch.tensor([4]))
