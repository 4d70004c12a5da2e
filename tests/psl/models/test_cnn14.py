"""CNN14 against the published network, written out in plain torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import psl


def slaney_mel(hz: float) -> float:
    """Linear to 1 kHz, then 27 steps for each factor of 6.4 (Auditory Toolbox)."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000, 6.4)


def slaney_hz(mel: float) -> float:
    """The other way."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def slaney_weights() -> Tensor:
    """[257, 64] triangles of area 1 from 50 to 8000 Hz."""
    low, high = slaney_mel(50), slaney_mel(8000)
    mels = [low + (high - low) * n / 65 for n in range(66)]
    points = torch.tensor([slaney_hz(mel) for mel in mels])
    bins = torch.linspace(0, 8000, 257)[:, None]
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return triangles * 2 / (points[2:] - points[:-2])


def published_scores(
    weights: dict[str, Tensor], waveform: Tensor, pooling: str
) -> Tensor:
    """[1, C] as Cnn14 (clip) or Cnn14_DecisionLevelAvg (mean) of PANNs gives them."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift)

    window = torch.hann_window(512)
    stft = torch.stft(waveform, 512, 160, window=window, return_complex=True)
    mel = slaney_weights().T @ stft.abs().square()
    db = 10 * mel.clamp(min=1e-10).log10()
    x = norm(db, "bn0").transpose(1, 2)[:, None]
    for block in range(1, 7):
        for part in (1, 2):
            stem = f"conv_block{block}"
            x = F.conv2d(x, weights[f"{stem}.conv{part}.weight"], padding=1)
            x = norm(x, f"{stem}.bn{part}").relu()
        x = F.avg_pool2d(x, 2) if block < 6 else x
    x = x.mean(dim=3)
    if pooling == "clip":
        x = (x.max(dim=2).values + x.mean(dim=2))[:, None]
    else:
        sides = F.pad(x, (1, 1))
        three = torch.stack([sides[..., n : n + x.shape[2]] for n in range(3)])
        x = (three.max(dim=0).values + three.mean(dim=0)).transpose(1, 2)
    x = (x @ weights["fc1.weight"].T + weights["fc1.bias"]).relu()
    x = x @ weights["fc_audioset.weight"].T + weights["fc_audioset.bias"]
    return x.sigmoid().mean(dim=1)


@pytest.mark.parametrize("pooling", ["clip", "mean"])
def test_cnn14_gives_the_outputs_of_the_published_network(pooling: str) -> None:
    """Imported weights would label as another model, and our baseline not be CNN14."""
    torch.manual_seed(0)
    model = psl.build_model("cnn14", num_classes=9, width=0.1, pooling=pooling).eval()
    for name, tensor in model.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 1.5)  # of the state itself
    model.get_buffer("bn0.running_mean").fill_(-20.0)
    model.get_buffer("bn0.running_var").fill_(100.0)
    time = torch.arange(48000) / 16000
    sweep = 0.3 * torch.sin(2 * torch.pi * (100 + 1200 * time) * time)[None]
    waveform = sweep + 0.01 * torch.randn(1, 48000)
    with torch.no_grad():
        scores, _ = model(waveform)
        expected = published_scores(model.state_dict(), waveform, pooling)
    assert expected.std() > 0.01
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
