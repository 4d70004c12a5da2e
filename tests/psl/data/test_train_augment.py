"""What training does to its inputs: each knob, what it does, and what it leaves."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from psl import label, train
from psl.data.batch import Batch
from psl.data.config import TrainAugmentConfig
from psl.data.examples import TrainingData
from psl.data.mixup import Mixup
from psl.data.spec_augment import install_masks
from psl.data.views import crop_starts
from psl.features.config import LogMelConfig
from psl.features.masks import SpecAugment
from psl.models.families import build_model
from psl.models.mobilenetv2 import MobileNetV2
from psl.training.online import OnlineTeacher
from psl.training.step import Stepper
from shards.dataset.reader import MemberReader
from shards.format.index import open_index
from tests import jobs
from tests.learning import losses, tiny_config

CPU = torch.device("cpu")
ALL_ON = [
    *("augment.gain_db=6", "augment.roll_seconds=0.3", "augment.crop=random"),
    *("augment.mixup_alpha=0.5", "augment.mixup_probability=0.7"),
    *("augment.time_masks=2", "augment.time_mask_seconds=0.2"),
    *("augment.frequency_masks=1", "augment.frequency_mask_share=0.3"),
]


def open_training(
    dataset: Path, *, seed: int = 0, chunk_seconds: float = 0.5, **options: Any
) -> TrainingData:
    data = TrainingData.open([str(dataset)], None, chunk_seconds=chunk_seconds, alpha=1)
    return data.augmented(TrainAugmentConfig(**options), seed=seed)


def all_samples(dataset: Path, row: int) -> np.ndarray:
    return MemberReader(open_index(dataset, kind="audio")).samples(row, 0, 32000)


# Gain, roll and crop


def test_a_crop_is_anywhere_in_its_clip_and_whole(dataset: Path) -> None:
    """Else windows run past the end, or the ends of clips are never heard."""
    data = open_training(dataset, crop="random")
    whole, starts = all_samples(dataset, 5), []
    rows = np.repeat(5, 4)
    for step in range(1, 60):
        batch = data.batch(rows, np.arange(4), CPU, None, step)
        assert batch.num_samples.tolist() == [8000] * 4
        for pcm in batch.pcm.numpy():
            at = [s for s in np.flatnonzero(whole == pcm[0]) if s <= 24000]
            found = [s for s in at if np.array_equal(whole[s : s + 8000], pcm)]
            assert len(found) == 1
            starts.append(int(found[0]))
    assert len(set(starts)) > 200 and min(starts) < 1000 and max(starts) > 23000
    assert np.mean(starts) == pytest.approx(12000, abs=1500)


def test_every_start_of_a_crop_is_as_likely_as_any_other() -> None:
    """Else the last sample is never reached, or asked for past the end."""
    rows = np.arange(4000)
    keys = np.array([f"clip{row}".encode() for row in rows])
    starts = crop_starts(np.full(4000, 3), 0, 9, keys=keys, chunks=0 * rows)
    assert np.bincount(starts).tolist() == pytest.approx([1000] * 4, abs=120)
    nowhere = crop_starts(0 * rows, 0, 9, keys=keys, chunks=0 * rows)
    assert not nowhere.any()


def test_gain_changes_the_level_and_roll_the_place_of_the_chunk(dataset: Path) -> None:
    """Else a knob is dead, or reaches into what it should leave."""
    chunk = all_samples(dataset, 3)[8000:16000].astype(np.float64)
    one, number = np.array([3]), np.array([1])
    gains, moves = set(), set()
    loud = open_training(dataset, gain_db=6.0)
    moved = open_training(dataset, roll_seconds=0.1)
    silent = open_training(dataset, roll_seconds=0.1, roll_fill="zero")
    for step in range(1, 60):
        pcm = loud.batch(one, number, CPU, None, step).pcm[0].double().numpy()
        gain = float(pcm @ chunk / (chunk @ chunk))
        np.testing.assert_allclose(pcm, gain * chunk, atol=0.6)
        gains.add(round(20 * math.log10(gain), 3))
        pcm = moved.batch(one, number, CPU, None, step).pcm[0].double().numpy()
        spectrum = np.fft.rfft(pcm) * np.fft.rfft(chunk).conj()
        shift = int(np.fft.irfft(spectrum).argmax())
        np.testing.assert_array_equal(pcm, np.roll(chunk, shift))
        moves.add(shift if shift < 4000 else shift - 8000)
        pcm = silent.batch(one, number, CPU, None, step).pcm[0].double().numpy()
        shift = shift if shift < 4000 else shift - 8000
        gone = slice(0, shift) if shift > 0 else slice(8000 + shift, 8000)
        assert not pcm[gone].any() and (pcm != 0).sum() > 6000
    assert len(gains) > 50 and -6 <= min(gains) < -4 and 4 < max(gains) <= 6
    assert len(moves) > 50 and -1600 <= min(moves) < -800 and 800 < max(moves) <= 1600


def test_what_is_done_to_an_example_depends_on_seed_step_and_chunk_alone(
    dataset: Path,
) -> None:
    """Else it changes with the batch, the process, or a resume."""
    options: dict[str, Any] = {"gain_db": 6.0, "roll_seconds": 0.2, "crop": "random"}
    data = open_training(dataset, **options)
    rows, chunks = np.repeat(np.arange(24), 2), np.tile([0, 3], 24)
    whole = data.batch(rows, chunks, CPU, None, 7).pcm
    part = data.batch(rows[9:11], chunks[9:11], CPU, None, 7).pcm
    assert torch.equal(part, whole[9:11])
    assert len({pcm.numpy().tobytes() for pcm in whole}) == 48
    later = data.batch(rows, chunks, CPU, None, 8).pcm
    other = open_training(dataset, seed=1, **options).batch(rows, chunks, CPU, None, 7)
    for changed in (later, other.pcm):
        assert not (changed == whole).all(dim=1).any()
    plain = open_training(dataset)
    untouched = plain.batch(rows, chunks, CPU, None, 7).pcm
    assert torch.equal(untouched, data.batch(rows, chunks, CPU).pcm)
    start = 3 * 8000
    expected = all_samples(dataset, 23)[start : start + 8000]
    np.testing.assert_array_equal(untouched[-1], expected)


# Masks


def masked(
    features: torch.Tensor,
    options: dict[str, int],
    num_samples: torch.Tensor | None = None,
) -> torch.Tensor:
    """Features after masks, 1 where they changed."""
    torch.manual_seed(0)
    module = SpecAugment(LogMelConfig(), **options)
    return cast(torch.Tensor, module(features, num_samples))


def test_masks_are_stripes_of_the_said_size_filled_with_the_example_s_mean() -> None:
    """Else too much is hidden, or the fill is a loud sound of its own."""
    features = torch.rand(500, 1, 32, 50) / 4 - 40
    features += (torch.rand(500, 1, 32, 50) > 0.5) * 0.75  # none is as loud as the mean
    mean = features.mean(dim=(1, 2, 3), keepdim=True)
    for axis, name in ((3, "time"), (2, "frequency")):
        number, most = f"{name}_masks", {"time": "max_frames"}.get(name, "max_bands")
        found = masked(features, {number: 1, most: 10})
        hidden = found != features
        torch.testing.assert_close(found, torch.where(hidden, mean, features))
        across = hidden.all(dim=5 - axis).squeeze(1)
        assert torch.equal(across, hidden.any(dim=5 - axis).squeeze(1))
        widths = across.sum(dim=1)
        assert widths.bincount(minlength=11).min() > 20 and widths.max() == 10
        edges = across.int().diff(dim=1).abs().sum(dim=1)
        assert edges.max() == 2  # one stripe
        assert across.float().mean(dim=0).min() > 0.01  # everywhere
        two = (masked(features, {number: 2, most: 10}) != features).float().mean()
        one = hidden.float().mean()
        assert one < two < 2 * one


def test_padding_is_neither_hidden_nor_part_of_the_fill() -> None:
    """Else a short example is never masked, and filled with the level of silence."""
    features = torch.rand(300, 1, 8, 50) + 1
    frames = torch.tensor([10, 50]).repeat(150)
    padding = torch.arange(50) >= frames[:, None, None, None]
    features = torch.where(padding, -100.0, features)
    hop = LogMelConfig().hop_length
    for options in (
        {"time_masks": 1, "max_frames": 5},
        {"frequency_masks": 1, "max_bands": 4},
    ):
        found = masked(features, options, hop * (frames - 1))
        hidden = found != features
        assert not (hidden & padding).any()
        short = hidden[::2].flatten(1).any(dim=1).float().mean()
        assert short > 0.7  # a sixth, or a fifth, of the stripes have no width
        mean = features[::2, ..., :10].mean(dim=(1, 2, 3), keepdim=True)
        level = mean.expand_as(features[::2])[hidden[::2]]
        torch.testing.assert_close(found[::2][hidden[::2]], level)


def test_masks_wider_than_the_features_are_cut_and_evaluation_has_none() -> None:
    """Else a short example ends the run, or validation is of another model."""
    features = torch.rand(50, 1, 4, 6)
    found = masked(features, {"time_masks": 1, "max_frames": 100})
    assert (found != features).any(dim=2).all(dim=2).any()
    module = SpecAugment(
        LogMelConfig(), time_masks=2, max_frames=3, frequency_masks=2, max_bands=2
    )
    assert torch.equal(module.eval()(features, None), features)
    assert not module.state_dict() and not list(module.parameters())


def test_masks_are_on_the_features_between_front_end_and_network() -> None:
    """Else masks are on in the config, and nothing or something else is masked."""
    model = cast(MobileNetV2, build_model(num_classes=3, width=0.25, dropout=0.0))
    waveform, seen = 0.1 * torch.randn(2, 16000), []

    class Spy(torch.nn.Module):
        def forward(
            self, features: torch.Tensor, num_samples: torch.Tensor | None
        ) -> torch.Tensor:
            seen.append(features)
            return features.flip(0)

    names = set(model.state_dict())
    plain, _ = model.eval()(waveform)
    config = TrainAugmentConfig(time_masks=1, time_mask_seconds=0.5)
    install_masks(model, config, model.config.front_end, chunk_seconds=1.0)
    masks = cast(SpecAugment, model.spec_augment)
    assert (masks.max_frames, masks.max_bands) == (50, 0)  # frames of 10 ms
    assert set(model.state_dict()) == names
    assert torch.equal(model.eval()(waveform)[0], plain)
    model.spec_augment = SpecAugment(model.config.front_end)
    learning, _ = model.train()(waveform)
    model.spec_augment = Spy()
    flipped, _ = model.train()(waveform)
    assert torch.equal(seen[0], model.front_end(waveform))
    torch.testing.assert_close(flipped, learning.flip(0))
    assert (learning[0] - learning[1]).abs().max() > 1e-3


# The whole way


def online(teacher: Path, *words: str) -> list[str]:
    return ["data.labels=online", f"data.teacher={teacher}", *words]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train.main(tiny_config(folder, dataset, "epochs=1"))
    return folder / "run"


class Ear:
    """Remembers what teacher and student of a run are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.teacher: list[Batch] = []
        self.taught: list[Batch] = []
        self.student: list[Batch] = []
        self.masks: list[Any] = []
        teach, step = OnlineTeacher.teach, Stepper.__call__

        def listen(teacher: OnlineTeacher, batch: Batch, step: int) -> Batch:
            self.teacher.append(batch)
            self.taught.append(teach(teacher, batch, step))
            return self.taught[-1]

        def learn(stepper: Stepper, batch: Batch, *more: Any, **options: Any) -> Any:
            self.student.append(batch)
            self.masks.append(stepper.model.spec_augment)
            return step(stepper, batch, *more, **options)

        monkeypatch.setattr(OnlineTeacher, "teach", listen)
        monkeypatch.setattr(Stepper, "__call__", learn)


def test_an_online_teacher_hears_the_very_samples_that_its_student_hears(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else labels are of another sound: the reason for an online teacher is lost."""
    ear = Ear(monkeypatch)
    words = ["epochs=1", *ALL_ON, "augment.mixup_labels=heard", "data.alpha=0.5"]
    train.main(tiny_config(tmp_path, dataset, *online(teacher, *words)))
    assert len(ear.teacher) == len(ear.student) == 6
    for heard, learnt in zip(ear.teacher, ear.student, strict=True):
        assert torch.equal(heard.waveform, learnt.waveform)
        assert torch.equal(heard.num_samples, learnt.num_samples)
        weak = heard.targets  # mixed: shares of classes
        assert ((weak > 0) & (weak < 1)).any()
        assert not torch.equal(weak, learnt.targets)


def test_labels_of_a_mixture_are_mixed_from_those_of_its_parts_by_default(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else mixup with a teacher is not the published one."""
    ear = Ear(monkeypatch)
    words = ["epochs=1", "augment.mixup_alpha=1", "augment.gain_db=6"]
    train.main(tiny_config(tmp_path, dataset, *online(teacher, *words)))
    for step, (heard, taught, learnt) in enumerate(
        zip(ear.teacher, ear.taught, ear.student, strict=True), start=1
    ):
        assert not torch.equal(heard.pcm, learnt.pcm)
        shares, partners = Mixup(1.0, 1.0, 0, 8, slice(0, 8)).draw(step)
        for place, (share, other) in enumerate(zip(shares, partners, strict=True)):
            said = taught.targets.double()
            expected = share * said[place] + (1 - share) * said[other]
            found = learnt.targets[place].double()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_stored_labels_go_with_gain_roll_mixup_and_masks(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else students of stored labels cannot be augmented; targets stay as stored."""
    out = tmp_path / "labels"
    words = [f"teacher={teacher}", f"audio={dataset}", f"out={out}"]
    label.main([*words, "chunk_seconds=1"])
    ear = Ear(monkeypatch)
    config = tiny_config(tmp_path, dataset, "epochs=1", f"data.labels=[{out}]")
    train.main(config)
    changes = [word for word in ALL_ON if not re.search("crop|mixup", word)]
    train.main([*config, f"run_dir={tmp_path}/changed", *changes])
    for plain, changed in zip(ear.student[:6], ear.student[6:], strict=True):
        assert torch.equal(plain.targets, changed.targets)
        assert not (plain.pcm == changed.pcm).all(dim=1).any()
    with pytest.raises(
        ValueError, match="augment.crop: stored labels are for fixed chunk"
    ):
        train.main([*config, "augment.crop=random"])


@pytest.mark.parametrize(
    "words",
    [
        ALL_ON[0:1],
        ALL_ON[1:2],
        [*ALL_ON[1:2], "augment.roll_fill=zero"],
        ALL_ON[2:3],
        ALL_ON[3:4],
        ALL_ON[3:5],
        ALL_ON[5:7],
        ALL_ON[7:9],
    ],
    ids=lambda words: words[-1].split(".")[1],
)
def test_every_knob_changes_the_losses_of_a_run(
    tmp_path: Path, dataset: Path, plain_losses: dict[int, float], words: list[str]
) -> None:
    """Else a knob is turned in vain."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1", *words))
    found = losses(tmp_path / "run")
    assert all(found[step] != plain_losses[step] for step in range(1, 7))


@pytest.fixture(scope="module")
def plain_losses(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path
) -> dict[int, float]:
    folder = tmp_path_factory.mktemp("plain")
    train.main(tiny_config(folder, dataset, "epochs=1"))
    return losses(folder / "run")


def test_without_any_of_it_a_student_hears_what_is_in_the_files(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the paper's recipes, which have none of it, are not the paper's."""
    ear = Ear(monkeypatch)
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    data = TrainingData.open([str(dataset)], None, chunk_seconds=1.0, alpha=1.0)
    for batch, (rows, chunks) in zip(
        ear.student, data.plan(8, seed=0).steps(0), strict=True
    ):
        for number, (row, chunk) in enumerate(
            zip(rows.tolist(), chunks.tolist(), strict=True)
        ):
            expected = all_samples(dataset, row)[16000 * chunk : 16000 * (chunk + 1)]
            np.testing.assert_array_equal(batch.pcm[number], expected)
        weak = data.audio.index.table.weak_targets(rows, 3)
        np.testing.assert_array_equal(batch.targets, weak)
    assert ear.masks and not any(
        masks.time_masks or masks.frequency_masks for masks in ear.masks
    )


def test_a_run_with_all_of_it_goes_on_to_the_same_losses_after_kills(
    tmp_path: Path, dataset: Path, teacher: Path
) -> None:
    """Else a preempted run is another run."""
    words = [*ALL_ON, "epochs=2", "save_every=4", "accumulation_steps=2"]
    words += online(teacher, "model.dropout=0.3", "data.alpha=0.5")
    whole = jobs.start(tmp_path, tiny_config(tmp_path / "whole", dataset, *words))
    assert whole.wait() == [0], whole.output
    killed = tiny_config(tmp_path / "killed", dataset, *words)
    for step in (5, 10):  # the checkpoints of steps 4 and 8 are inside epochs of 6
        job = jobs.start(tmp_path, killed, fault=f"step={step},point=step,action=kill")
        assert job.wait() == [-9], job.output
    last = jobs.start(tmp_path, killed)
    assert last.wait() == [0], last.output
    undisturbed = losses(tmp_path / "whole" / "run")
    assert len(undisturbed) == 12
    assert losses(tmp_path / "killed" / "run") == undisturbed


def test_two_ranks_hear_the_augmented_examples_that_one_hears(
    tmp_path: Path, dataset: Path
) -> None:
    """Else a run depends on how many GPUs were free. Only masks and partners of
    mixtures do.
    """
    words = [word for word in ALL_ON if not re.search("mixup|masks?", word)]
    found = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        config = tiny_config(folder, dataset, "epochs=1", *words)
        job = jobs.start(folder, config, ranks=ranks, fixed_statistics=True)
        assert set(job.wait()) == {0}, job.output
        found[ranks] = losses(folder / "run")
    assert found[1][1] == pytest.approx(found[2][1], rel=1e-5)
    assert found[1] == pytest.approx(found[2], rel=1e-3)
    mixed = tiny_config(tmp_path / "all", dataset, "epochs=1", *ALL_ON)
    job = jobs.start(tmp_path / "all", mixed, ranks=2)
    assert set(job.wait()) == {0}, job.output
    assert len(losses(tmp_path / "all" / "run")) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["roll_fill=zero"], "roll_fill does nothing without roll_seconds; set both"),
        (["mixup_probability=0.5"], "mixup_probability does nothing without mixup_al"),
        (["mixup_labels=heard"], "mixup_labels does nothing without mixup_alpha"),
        (["time_mask_seconds=1"], "time_mask_seconds does nothing without time_masks"),
        (["frequency_mask_share=0.1"], "does nothing without frequency_masks"),
        (["time_masks=1"], "}: time_masks need time_mask_seconds; set both"),
        (["frequency_masks=1"], "frequency_masks need frequency_mask_share; set both"),
        (
            ["mixup_alpha=0"],
            "augment.mixup_alpha = 0: Input should be greater than or equal to 0.001",
        ),
        (["gain_db=1000"], "augment.gain_db = 1000: Input should be less"),
        (["crop=centre"], "augment.crop = 'centre': Input should be 'random'"),
        (
            ["mixup_alpha=1", "mixup_labels=heard"],
            "augment.mixup_labels needs data.labels=online",
        ),
        (["time_masks=1", "time_mask_seconds=1"], "could hide a whole example of 1.0"),
        (["time_masks=1", "time_mask_seconds=0.001"], "is less than a frame"),
        (["frequency_masks=1", "frequency_mask_share=0.99"], "could hide all 32 mel"),
        (["frequency_masks=1", "frequency_mask_share=0.01"], "0.01 of 32 mel bands is"),
        (["crop=random", "+data.chunk_seconds=2"], "no clip is longer than an example"),
    ],
)
def test_a_knob_that_could_do_nothing_or_too_much_is_refused(
    tmp_path: Path, dataset: Path, words: list[str], message: str
) -> None:
    """Else a run of days is not what its config says."""
    full = [w[1:] if w.startswith("+") else f"augment.{w}" for w in words]
    with pytest.raises(ValueError, match=re.escape(message)):
        train.main(tiny_config(tmp_path, dataset, *full))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_does_not_go_on_with_other_augmentation(
    tmp_path: Path, dataset: Path
) -> None:
    """Else half of a run is one experiment, half another."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    with pytest.raises(ValueError, match="begun with augment.gain_db = "):
        train.main(tiny_config(tmp_path, dataset, "epochs=1", ALL_ON[0]))
