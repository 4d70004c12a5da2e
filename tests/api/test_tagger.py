"""psl.load: from a run folder to probabilities, as a notebook does it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import psl
import shards
from psl.data.loader import LoaderConfig
from psl.distributed.runtime import move_model
from psl.evaluation.scoring import score_clips
from psl.models.families import FAMILIES
from psl.tagger import Tagger
from psl.weights.checkpoint import load_checkpoint
from shards.errors import ShardError
from shards.format.index import open_index
from tests.api.conftest import CLASSES
from tests.conftest import MIDS, RATE
from tests.tiny_models import TINY


def noise(*shape: int) -> np.ndarray:
    """Noise [*shape] float32 in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("inside", ["", "checkpoints/step_00000004"])
def test_a_run_or_a_checkpoint_folder_is_a_tagger(run_dir: Path, inside: str) -> None:
    """Else a notebook has to know how a checkpoint is stored."""
    tagger = psl.load(run_dir / inside, device="cpu")
    assert tagger.sample_rate == RATE
    assert tagger.classes.mids == MIDS
    assert tagger.classes.names == ("Tone low", "Tone mid", "Tone high")
    assert tagger.frame_seconds == 0.16  # 16 frames of 10 ms
    clip_probs, frame_probs = tagger(noise(2, 2 * RATE))
    assert clip_probs.shape == (2, 3) and frame_probs.shape == (2, 13, 3)
    assert clip_probs.dtype == frame_probs.dtype == np.float32
    assert frame_probs.min() >= 0 and frame_probs.max() <= 1
    np.testing.assert_allclose(clip_probs, frame_probs.mean(axis=1), atol=1e-6)
    assert "3 classes" in repr(tagger) and "cpu" in repr(tagger)


def test_a_clip_has_the_probabilities_that_psl_evaluate_scores(
    run_dir: Path, dataset: Path
) -> None:
    """Else the notebook and the reported mAP are of two different models."""
    index = open_index(dataset, kind="audio")
    scores = score_clips(
        move_model(load_checkpoint(run_dir).build_model(), torch.device("cpu")),
        index,
        Accelerator(cpu=True),
        batch_size=1,
        loader=LoaderConfig(threads=1),
    )
    tagger, clips = psl.load(run_dir, device="cpu"), shards.open_dataset(dataset)
    for row in (0, 23):
        clip_probs, _ = tagger(clips.waveform(row)[None])
        np.testing.assert_array_equal(clip_probs[0], scores[row])


def test_torch_gives_torch_and_numpy_of_any_layout_gives_numpy(run_dir: Path) -> None:
    """Else float64, read-only or reversed arrays fail or give other values."""
    tagger, waveform = psl.load(run_dir, device="cpu"), noise(2, RATE)
    expected, _ = tagger(waveform)
    assert isinstance(expected, np.ndarray)
    found, frames = tagger(torch.from_numpy(waveform))
    assert isinstance(found, torch.Tensor) and isinstance(frames, torch.Tensor)
    np.testing.assert_array_equal(found, expected)
    frozen = waveform.copy()
    frozen.flags.writeable = False
    backwards = np.ascontiguousarray(waveform[:, ::-1])[:, ::-1]
    big_endian = waveform.astype(">f4")
    for other in (waveform.astype(np.float64), frozen, backwards, big_endian):
        np.testing.assert_array_equal(tagger(other)[0], expected)
    assert not found.requires_grad and not tagger.model.training


def test_lengths_keep_padding_out_of_the_clip(run_dir: Path) -> None:
    """Else a short clip in a padded batch is scored with its silence."""
    tagger, waveform = psl.load(run_dir, device="cpu"), noise(2, 2 * RATE)
    waveform[1, RATE:] = 0
    clip_probs, frame_probs = tagger(waveform, np.array([2 * RATE, RATE]))
    # 201 STFT frames are 13 output frames, and 101 of them 7
    np.testing.assert_allclose(clip_probs[0], frame_probs[0].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        clip_probs[1], frame_probs[1, :7].mean(axis=0), atol=1e-6
    )
    without, _ = tagger(waveform)
    np.testing.assert_array_equal(without[0], clip_probs[0])
    assert abs(without[1] - clip_probs[1]).max() > 0.02
    lengths = torch.tensor([2 * RATE, RATE])
    as_tensor, _ = tagger(torch.from_numpy(waveform), lengths)
    np.testing.assert_array_equal(as_tensor, clip_probs)


def test_a_click_is_padded_rather_than_refused(run_dir: Path) -> None:
    """Else a clip of 10 ms ends in an error from inside torch."""
    clip_probs, _ = psl.load(run_dir, device="cpu")(noise(1, 160))
    assert np.isfinite(clip_probs).all()


WRONG: dict[str, tuple[Any, Any, str]] = {
    "int16": (np.zeros((1, RATE), np.int16), None, "divide int16 by 32768"),
    "one waveform": (noise(RATE), None, r"\[16000\], expected floats \[B, N\]"),
    "stereo": (noise(1, 2, RATE), None, r"\[1, 2, 16000\]"),
    "none": (noise(0, RATE), None, r"\[0, 16000\] hold no samples"),
    "empty": (noise(1, 0), None, r"\[1, 0\] hold no samples"),
    "unscaled": (noise(1, RATE) * 32767, None, "magnitude 327.*divide int16"),
    "NaN": (noise(1, RATE) * np.nan, None, "magnitude nan"),
    "infinite": (noise(1, RATE) * np.inf, None, "magnitude inf"),
    "too long": (noise(1, RATE), [RATE + 1], "16001.*expected 1 to 16000"),
    "no length": (noise(1, RATE), [0], r"\[0\]; expected 1 to 16000"),
    "two lengths": (noise(1, RATE), [RATE, RATE], r"\[2\]; expected integers \[1\]"),
    "seconds": (noise(1, RATE), [1.0], "float.*expected integers"),
    "mask": (noise(1, RATE), [True], "lengths are"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_input_is_refused_with_what_to_do(run_dir: Path, what: str) -> None:
    """Else integers, seconds or a NaN give plausible probabilities."""
    waveform, lengths, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        psl.load(run_dir, device="cpu")(waveform, lengths)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_says_how_far_apart_its_frames_are(name: str) -> None:
    """Else frames of another family are drawn at the wrong times."""
    model: Any = psl.build_model(name, num_classes=3, **TINY[name])
    rate = model.config.front_end.sample_rate
    tagger = Tagger(model, classes=CLASSES, sample_rate=rate, device="cpu")
    # frames that clips of 40 s and 120 s reach tell the distance, up to rounding
    few, many = model.num_frames(torch.tensor([40 * rate, 120 * rate])).tolist()
    assert tagger.frame_seconds == pytest.approx(80 / (many - few), rel=0.02)
    expected = {"mobilenetv2": 0.32, "ast": 2.08}
    assert tagger.frame_seconds == expected.get(name, 0.32)


def test_what_is_not_a_model_is_refused_by_name(
    run_dir: Path, dataset: Path, tmp_path: Path
) -> None:
    """Else a mistyped path ends in a KeyError, or in a model of fresh weights."""
    for path in (tmp_path / "missing", tmp_path, dataset, dataset / "index.json"):
        with pytest.raises(ShardError, match="no checkpoint there; expected a run"):
            psl.load(path)
    copy = shutil.copytree(run_dir, tmp_path / "run")
    weights = next(copy.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ShardError, match="damaged"):
        psl.load(copy)


def test_the_public_names_are_there_and_others_are_not() -> None:
    """Else tab completion and typing errors are answered with nonsense."""
    for package, names in ((psl, psl.__all__), (shards, shards.__all__)):
        for name in names:
            assert getattr(package, name) is not None
        assert set(names) <= set(dir(package))
        with pytest.raises(AttributeError, match="no attribute 'laod'"):
            package.laod  # noqa: B018
