"""A teacher that looks along gives the targets that it would have stored."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psl import label, train
from psl.data.examples import TrainingData
from psl.models.families import build_model
from psl.teachers.config import TeacherConfig
from psl.teachers.load import Ensemble, load_teacher
from psl.training.online import OnlineTeacher
from psl.weights.checkpoint import load_checkpoint
from shards.dataset.cache import ShardCache
from shards.format.index import open_index
from shards.system.exits import JobError
from tests import jobs
from tests.conftest import Run, write_source
from tests.learning import losses, teacher_config, tiny_config

HALF_STEP = 2.0**-11
"""Of float16, relative: what rounding to it may change."""
ROUNDING = 1e-6
"""What sums in float32 may change, in whatever batch."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(teacher_config(folder, dataset))
    return folder / "run"


@pytest.fixture(scope="module")
def labels(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, teacher: Path
) -> Path:
    """What it says of every second; not to be changed."""
    out = tmp_path_factory.mktemp("labels") / "1s"
    words = [f"teacher={teacher}", f"audio={dataset}", f"out={out}"]
    label.main([*words, "chunk_seconds=1", "batch_size=5"])
    return out


def online_words(teacher: Path) -> list[str]:
    return ["data.labels=online", f"data.teacher={teacher}"]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_loss_curve_with_stored_labels_is_that_with_the_teacher(
    dataset: Path, teacher: Path, labels: Path, tmp_path: Path, alpha: float
) -> None:
    """Labels made once would be another method than the paper's.

    Labels were made in other batches, where float32 sums round otherwise, which can
    move a target to the next float16. BatchNorm uses its running statistics, as those
    of 8 chunks, with Adam's first steps of the size of the learning rate however small
    the gradient, may turn any rounding into percents of the loss in a few steps.
    """
    words = ["epochs=2", f"data.alpha={alpha}"]
    found = []
    for name, more in (
        ("stored", [f"data.labels=[{labels}]"]),
        ("online", online_words(teacher)),
    ):
        folder = tmp_path / name
        config = tiny_config(folder, dataset, *words, *more)
        job = jobs.start(folder, config, fixed_statistics=True)
        assert set(job.wait()) == {0}, job.output
        found.append(losses(folder / "run"))
    expected, online = found
    assert online.keys() == expected.keys() == set(range(1, 13))
    assert online[1] == pytest.approx(expected[1], rel=HALF_STEP)
    assert online == pytest.approx(expected, rel=1e-3)


class OneByOne(torch.nn.Module):
    """A teacher that sees each chunk alone."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    has_features = False

    def forward(
        self, waveform: torch.Tensor, lengths: torch.Tensor, _: None
    ) -> torch.Tensor:
        """[B, C] probabilities."""
        pairs = zip(waveform.split(1), lengths.split(1), strict=True)
        return torch.cat([self.inner(*pair) for pair in pairs])


def test_with_the_same_batches_of_the_teacher_the_losses_are_the_same_bits(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something beside rounding would differ between stored and online labels."""
    out = tmp_path / "labels"
    words = [f"teacher={teacher}", f"audio={dataset}", f"out={out}"]
    label.main([*words, "chunk_seconds=1", "batch_size=1"])
    stored = tiny_config(tmp_path / "stored", dataset, "data.alpha=0.5")
    train.main([*stored, f"data.labels=[{out}]"])

    def load_one_by_one(*args: Any, **named: Any) -> Any:
        loaded: Any = load_teacher(*args, **named)
        return dataclasses.replace(loaded, model=OneByOne(loaded.model))

    monkeypatch.setattr("psl.training.parts.load_teacher", load_one_by_one)
    online = tiny_config(tmp_path / "online", dataset, "data.alpha=0.5")
    train.main([*online, *online_words(teacher)])
    assert losses(tmp_path / "online/run") == losses(tmp_path / "stored/run")


def test_stored_labels_are_the_teacher_s_in_any_batch_and_order(
    dataset: Path, teacher: Path, labels: Path
) -> None:
    """What a student is asked for would depend on how labels were batched.

    The bytes of labels are the same for any number of processes (test_label_job), so
    this holds for all of them.
    """
    data = TrainingData.open([str(dataset)], [str(labels)], chunk_seconds=1, alpha=1)
    model = load_teacher(
        [TeacherConfig(path=str(teacher))], data.audio.index, cache=ShardCache()
    )
    online = OnlineTeacher(model, alpha=1)
    rows, chunks = np.repeat(np.arange(24), 2), np.tile([0, 1], 24)
    generator, device = np.random.default_rng(0), torch.device("cpu")
    for size in (1, 7, 16, 48):
        order = generator.permutation(48)
        parts = np.split(order, range(size, 48, size))
        stored = [data.batch(rows[part], chunks[part], device) for part in parts]
        for batch in stored:
            taught = online.teach(batch, 1)
            assert taught.targets.dtype == torch.float32
            torch.testing.assert_close(
                batch.targets, taught.targets, rtol=2 * HALF_STEP, atol=ROUNDING
            )


def test_in_the_same_batch_stored_labels_are_the_teacher_s_bits_rounded(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    """Somewhere between teacher and label something else would be done to them."""
    words = [f"teacher={teacher}", f"audio={dataset}", f"out={tmp_path}/labels"]
    label.main([*words, "chunk_seconds=1", "batch_size=16"])
    data = TrainingData.open(
        [str(dataset)], [f"{tmp_path}/labels"], chunk_seconds=1, alpha=1
    )
    model = load_checkpoint(teacher).build_model()
    for shard in range(3):  # of 8 clips, 16 chunks
        rows, chunks = 8 * shard + np.repeat(np.arange(8), 2), np.tile([0, 1], 8)
        batch = data.batch(rows, chunks, torch.device("cpu"))
        with torch.inference_mode():
            probs, _ = model(batch.waveform, batch.num_samples)
        assert torch.equal(probs.half().float(), batch.targets)


def test_two_ranks_learn_from_the_teacher_what_one_learns(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    """A rank's teacher would look at other chunks than its student, or be trained."""
    found = {}
    for ranks in (1, 2):
        words = tiny_config(tmp_path / str(ranks), dataset, "epochs=1")
        job = jobs.start(
            tmp_path / str(ranks),
            [*words, *online_words(teacher)],
            ranks=ranks,
            fixed_statistics=True,
        )
        assert set(job.wait()) == {0}, job.output
        found[ranks] = losses(tmp_path / str(ranks) / "run")
    assert found[1] == pytest.approx(found[2], rel=1e-4)


def upstream_file(path: Path, **changes: float) -> Path:
    """A file with upstream's names for three classes, with the head's bias filled."""
    torch.manual_seed(0)
    weights: dict[str, Any] = build_model(num_classes=3).state_dict()
    weights["classifier.1.bias"].fill_(changes["bias"])
    torch.save(weights, path)
    return path


def test_nan_of_an_online_teacher_names_clip_and_teacher(
    dataset: Path, tmp_path: Path
) -> None:
    """The run would end with a loss of NaN, and the learning rate would be blamed."""
    teacher = upstream_file(tmp_path / "bad.pt", bias=float("nan"))
    words = tiny_config(tmp_path, dataset, *online_words(teacher), "nonfinite=skip")
    with pytest.raises(JobError, match=r"key 'clip\d+_0' .*: teacher \S*bad.pt "):
        train.main(words)


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(
    dataset: Path, tmp_path: Path
) -> None:
    """Half of the run would learn from one teacher, half from another."""
    teacher = upstream_file(tmp_path / "teacher.pt", bias=0.0)
    words = tiny_config(tmp_path, dataset, "epochs=1", *online_words(teacher))
    train.main(words)
    upstream_file(tmp_path / "teacher.pt", bias=1.0)
    with pytest.raises(ValueError, match="was trained on other data"):
        train.main(words)


@pytest.mark.parametrize(
    "word", ["data.labels=online", "data.teacher=runs/teacher"], ids=str
)
def test_online_labels_and_a_teacher_belong_together(
    dataset: Path, tmp_path: Path, word: str
) -> None:
    """The run would train on weak labels without a word."""
    with pytest.raises(ValueError, match="labels=online and data.teacher=PATH belong"):
        train.main(tiny_config(tmp_path, dataset, word))


def test_the_time_of_the_teacher_does_not_pass_for_waiting_for_data(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users would add loader threads to a run that its teacher slows down."""
    forward = Ensemble.forward

    def slow_forward(*args: Any) -> torch.Tensor:
        time.sleep(0.5)
        return forward(*args)

    monkeypatch.setattr(Ensemble, "forward", slow_forward)
    words = tiny_config(tmp_path, dataset, "epochs=1", *online_words(teacher))
    train.main(words)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    shares = [r["wait_share"] for r in map(json.loads, lines) if "wait_share" in r]
    assert len(shares) == 6 and np.median(shares) < 0.5


def test_unlabelled_clips_are_left_out_only_where_labels_are_stored(
    dataset: Path, tmp_path: Path
) -> None:
    """Users would believe that a run on weak labels leaves clips out."""
    words = tiny_config(tmp_path, dataset, "data.max_unlabelled=0.1")
    with pytest.raises(ValueError, match="max_unlabelled = 0.1 has no effect without"):
        train.main(words)


def test_audio_without_labels_is_packed_labelled_and_learned_from(
    dataset: Path, teacher: Path, tmp_path: Path, run: Run
) -> None:
    """Most audio there is has no labels; nobody could use it."""
    source = write_source(tmp_path / "source", num_clips=10)
    below = source.audio / "more"
    below.mkdir()
    (source.audio / "clip9.wav").rename(below / "clip9_30.000_32.000.wav")
    source.segments.unlink()
    words = ["--audio", str(source.audio), "--class-labels", str(source.class_labels)]
    words += ["--out", str(tmp_path / "packed"), "--workers", "1"]
    refused = run("shards.pack", *words)
    assert refused.returncode == 78 and "or --unlabelled" in refused.stderr
    result = run("shards.pack", *words, "--unlabelled")
    assert result.returncode == 0, result.stderr
    index = open_index(tmp_path / "packed", kind="audio")
    keys = sorted(index.key(row) for row in range(len(index)))
    assert keys == [*(f"clip{n}_0" for n in range(9)), "clip9_30000"]
    assert not len(index.table.label)
    result = run("shards.verify", str(tmp_path / "packed"))
    assert result.returncode == 0, result.stderr

    packed, out = tmp_path / "packed", tmp_path / "labels"
    label.main([f"teacher={teacher}", f"audio={packed}", f"out={out}"])
    assert len(open_index(out, kind="labels")) == 10
    student = tiny_config(tmp_path, dataset, "epochs=1", f"data.audio=[{packed}]")
    train.main([*student, *online_words(teacher)])
    assert json.loads((tmp_path / "run/result.json").read_text())
    with pytest.raises(ValueError, match="no clip has a label, so nothing to train"):
        train.main([*student, f"run_dir={tmp_path}/weak"])


def test_two_files_of_one_name_are_two_clips_where_there_is_no_list(
    tmp_path: Path, run: Run
) -> None:
    """One of them would be labelled as the other."""
    source = write_source(tmp_path / "source", num_clips=2)
    (source.audio / "more").mkdir()
    shutil.copy(source.audio / "clip0.wav", source.audio / "more" / "clip1.wav")
    words = ["--audio", str(source.audio), "--class-labels", str(source.class_labels)]
    result = run("shards.pack", *words, "--out", str(tmp_path / "o"), "--unlabelled")
    assert result.returncode == 0, result.stderr
    index = open_index(tmp_path / "o", kind="audio")
    keys = {index.key(row) for row in range(len(index))}
    assert keys == {"clip0_0", "clip1_0", "more=2Fclip1_0"}
