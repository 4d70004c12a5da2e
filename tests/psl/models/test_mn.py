"""EfficientAT's networks: sizes, padding, and parity with the published mn04."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file

import psl
from psl.models.mn import scaled
from tests.learning import REPOSITORY
from tests.needs import OPTIONAL

SHARED = REPOSITORY.parent / "shared"
PUBLISHED = SHARED / "teachers" / "mn04_as.safetensors"
GOLDEN = SHARED / "teachers" / "mn04_golden.json"
RECORDINGS = SHARED / "data" / "esc10" / "audio"


def published() -> Any:
    """The published mn04."""
    model: Any = psl.build_model("mn", width=0.4, pooling="clip")
    model.load_state_dict(load_file(PUBLISHED))
    return model.eval()


def recording(name: str) -> torch.Tensor:
    """A waveform [1, N] at 32 kHz."""
    samples, rate = soundfile.read(RECORDINGS / name, dtype="float32", always_2d=True)
    heard = soxr.resample(samples.mean(axis=1), rate, 32000)
    return torch.from_numpy(heard.astype(np.float32))[None]


@pytest.mark.parametrize(
    ("width", "num_parameters"),
    [(0.1, 123_783), (0.4, 983_599), (2.0, 17_909_287), (4.0, 68_427_303)],
)
def test_every_width_has_the_size_it_was_published_with(
    width: float, num_parameters: int
) -> None:
    """No published file of that width would load: 0.12, 0.98, 17.91 and 68.43 M."""
    with torch.device("meta"):
        model = psl.build_model("mn", width=width)
    assert sum(p.numel() for p in model.parameters()) == num_parameters


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 0.4, 24), (72, 0.4, 32), (16, 0.1, 8), (16, 1.0, 16), (184, 0.5, 96)],
)
def test_channels_are_rounded_as_mobilenets_are(
    channels: int, width: float, expected: int
) -> None:
    """Shapes of published files would not fit."""
    assert scaled(channels, width) == expected


def test_padding_hardly_changes_a_score() -> None:
    """The last chunk of a clip would be labelled for the silence behind it.

    What is left comes from the last window of the STFT, which reflects the audio.
    """
    torch.manual_seed(0)
    model: Any = psl.build_model("mn", num_classes=3, width=0.1).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    noise = 0.1 * torch.randn(4, 64000)
    with torch.no_grad():
        model(noise)
        model.eval()
        alone, _ = model(noise[:, :32000])
        padded = torch.nn.functional.pad(noise[:, :32000], (0, 64000))
        told, _ = model(padded, torch.full((4,), 32000))
        untold, _ = model(padded)
    assert (told - alone).abs().max() < 0.2 * (untold - alone).abs().max()


def test_both_heads_agree_where_there_is_one_frame() -> None:
    """The decision mean would not be that of the published layers."""
    torch.manual_seed(0)
    clip: Any = psl.build_model("mn", num_classes=3, width=0.1, pooling="clip").eval()
    mean: Any = psl.build_model("mn", num_classes=3, width=0.1, pooling="mean").eval()
    mean.load_state_dict(clip.state_dict())
    waveform = 0.1 * torch.randn(2, 9000)  # 29 STFT frames
    with torch.no_grad():
        (probs, frames), (others, _) = clip(waveform), mean(waveform)
    assert frames.shape == (2, 1, 3)
    torch.testing.assert_close(probs, others)


@pytest.mark.skipif(
    not GOLDEN.exists(), reason=f"{OPTIONAL}the published mn04 is not here"
)
def test_the_published_network_gives_what_its_authors_code_gives() -> None:
    """A teacher's labels would be those of another model; 1e-4 is asked for."""
    model = published()
    for name, parts in json.loads(Path(GOLDEN).read_text()).items():
        heard = recording(name)
        for part in parts.values():
            with torch.no_grad():
                probs = model(heard[:, : part["samples"]])[0][0]
            for number, _, expected in part["top10"]:
                assert probs[number].item() == pytest.approx(expected, abs=1e-5)
            assert probs.sum().item() == pytest.approx(part["sum"], abs=1e-4)
