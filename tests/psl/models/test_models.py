"""Models and features: shapes, names, and independence of the batch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, cast

import pytest
import torch

import psl
from psl.features.config import LogMelConfig
from psl.features.log_mel import log_mel
from psl.models.mobilenetv2 import MobileNetV2
from tests.learning import REPOSITORY

UPSTREAM = REPOSITORY / "tests/upstream_state_dict.json"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return psl.build_model("mobilenetv2", num_classes=527).eval()


def test_mobilenetv2_has_the_paper_s_number_of_parameters(
    model: torch.nn.Module,
) -> None:
    """Whoever compares with the paper would compare another model."""
    assert sum(p.numel() for p in model.parameters()) == 2_898_383


def test_a_state_dict_with_upstream_s_names_and_shapes_loads(
    model: torch.nn.Module,
) -> None:
    """Owners of upstream checkpoints could not use them."""
    shapes = json.loads(UPSTREAM.read_text())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert len(weights) == 316
    model_with_weights = psl.build_model("mobilenetv2", num_classes=527)
    model_with_weights.load_state_dict(weights, strict=True)
    loaded = model_with_weights.state_dict()
    assert all(not loaded[name].any() for name in shapes)


@pytest.mark.parametrize(
    ("seconds", "stride", "frames"), [(10, 32, 32), (2, 32, 7), (1, 32, 4), (2, 16, 13)]
)
def test_frames_follow_from_length_and_stride(
    seconds: int, stride: int, frames: int
) -> None:
    """Frame-level users would place events at the wrong time.

    A 10 s clip has 1001 STFT frames; ceil(1001 / 32) = 32.
    """
    options: dict[str, Any] = {"width": 0.5, "last_channels": 64, "time_stride": stride}
    model = cast(MobileNetV2, psl.build_model(num_classes=5, **options)).eval()
    clip_probs, frame_probs = model(torch.zeros(3, seconds * 16000))
    assert clip_probs.shape == (3, 5)
    assert frame_probs.shape == (3, frames, 5)
    assert model.num_frames(torch.tensor([seconds * 16000])).tolist() == [frames]


def test_the_clip_score_is_the_mean_of_frame_probabilities(
    model: torch.nn.Module,
) -> None:
    """A sigmoid of a mean would be another method than the paper's."""
    clip_probs, frame_probs = model(0.1 * torch.randn(2, 32000))
    assert frame_probs.min() >= 0 and frame_probs.max() <= 1
    torch.testing.assert_close(clip_probs, frame_probs.sum(dim=1) / 7)


def test_frames_of_padding_do_not_count(model: torch.nn.Module) -> None:
    """Short clips would score low because silence was averaged in."""
    padded = torch.zeros(1, 32000)
    padded[:, :16000] = 0.1 * torch.randn(1, 16000)
    clip_probs, frame_probs = model(padded, torch.tensor([16000]))
    torch.testing.assert_close(clip_probs, frame_probs[:, :4].mean(dim=1))


def test_scores_of_an_example_do_not_depend_on_its_batch(
    model: torch.nn.Module,
) -> None:
    """A quiet clip would be scored differently beside a loud one (upstream's quirk)."""
    quiet, loud = 1e-4 * torch.randn(1, 32000), torch.randn(1, 32000)
    alone, _ = model(quiet)
    together, _ = model(torch.cat([quiet, loud]))
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=1e-5)


def test_the_db_floor_is_set_by_each_example_alone() -> None:
    """The same, at the features: the floor is 120 dB under the example's own peak."""
    features = log_mel(LogMelConfig())
    silent_then_loud = torch.zeros(2, 16000)
    silent_then_loud[1] = torch.randn(16000)
    mel = features(silent_then_loud)
    assert mel.shape == (2, 1, 64, 101)
    torch.testing.assert_close(mel[0], torch.full((1, 64, 101), -100.0))


def test_a_pure_tone_lights_the_mel_band_of_its_frequency() -> None:
    """Whoever reads features would see sounds at a wrong pitch.

    64 HTK mel bands to 8 kHz: band k peaks at mel 2840.0 * (k + 1) / 65, so 1 kHz
    (1000 mel) falls to band 22.
    """
    time = torch.arange(16000) / 16000
    mel = log_mel(LogMelConfig())(torch.sin(2 * torch.pi * 1000 * time)[None])
    assert mel[0, 0, :, 50].argmax() == 22


def test_an_unknown_model_or_option_is_named_with_its_nearest() -> None:
    """A typo would train another model than the one in the paper of the user."""
    with pytest.raises(ValueError, match="unknown model 'mobilnet'"):
        psl.build_model("mobilnet")
    with pytest.raises(ValueError, match="'widht'; did you mean 'width'"):
        psl.build_model("mobilenetv2", widht=0.5)


BROKEN_EXTENSION = """
import importlib.abc, sys
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchaudio._extension":
            raise {error}("libc10_cuda.so: cannot open shared object file")
sys.meta_path.insert(0, Broken())
import psl, torch
print(psl.build_model(num_classes=3).eval()(torch.zeros(1, 16000))[0].shape)
"""


@pytest.mark.parametrize("error", ["OSError", "RuntimeError"])
def test_models_work_where_torchaudio_s_extension_does_not_load(error: str) -> None:
    """Everybody with a CPU torch, or another CUDA minor version, could not import."""
    code = BROKEN_EXTENSION.format(error=error)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "torch.Size([1, 3])", done.stderr


WITHOUT_TORCHVISION = """
import sys
sys.modules["torchvision"] = None
import psl.training.loop, psl.labelling.job, psl.evaluation.evaluate
from transformers import ASTConfig, ASTForAudioClassification
import torchaudio
print(torchaudio.transforms.MelSpectrogram.__name__)
"""


def test_nothing_needs_torchvision_and_transformers_finds_torchaudio() -> None:
    """Torchvision does not import beside a CPU torch, nor transformers without ours."""
    pytest.importorskip("transformers")
    command = [sys.executable, "-c", WITHOUT_TORCHVISION]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip().endswith("MelSpectrogram"), done.stderr
