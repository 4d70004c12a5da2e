"""Class balancing and mixing: what is in an epoch, against what arithmetic says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from psl import train
from psl.data.examples import TrainingData
from psl.weights.checkpoint import load_newest
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import open_index
from shards.order.balance import balanced_weights, sampling_weights
from shards.order.plan import Plan
from tests.conftest import Run, write_source
from tests.learning import tiny_config

Labels = tuple[np.ndarray, np.ndarray]


def csr(*classes_of_clip: list[int]) -> Labels:
    """label_start and label of clips with the classes given."""
    ends = np.cumsum([0, *map(len, classes_of_clip)])
    return ends, np.array(sum(classes_of_clip, []), np.int32)


SKEWED = csr(*[[0]] * 80, *[[1]] * 16, *[[2]] * 4)
"""100 clips of one class each: 80, 16 and 4 of the three classes."""


def weigh(
    labels: Labels, *, temper: float, limit: float = 1e9, chunks: int = 1
) -> np.ndarray:
    counts = np.full(len(labels[0]) - 1, chunks)
    return balanced_weights(counts, *labels, temper=temper, limit=limit)


def test_full_balance_shows_every_class_as_often() -> None:
    """Else rare classes stay rare. A third of 100 for each: 33.3 / 80, / 16 and / 4."""
    weights = weigh(SKEWED, temper=1, chunks=5)
    assert weights[[0, 80, 96]] == pytest.approx([0.416667, 2.083333, 8.333333])
    assert weights.sum() == pytest.approx(100)


def test_tempered_balance_goes_the_root_of_the_way() -> None:
    """Else 0.5 is 1 or 0. 1 / sqrt(80), / 4 and / 2 over their mean 0.149443."""
    weights = weigh(SKEWED, temper=0.5)
    assert weights[[0, 80, 96]] == pytest.approx([0.748130, 1.672870, 3.345739], 1e-5)


def test_no_balance_leaves_each_clip_once() -> None:
    """Else the baseline of a sweep over balance is not the run without it."""
    assert weigh(SKEWED, temper=0).tolist() == [1.0] * 100


def test_a_clip_of_several_classes_weighs_what_all_of_them_add() -> None:
    """Else co-occurring sounds are balanced by one of their classes alone.

    A class drawn at random, then one of its clips: 1/2, 1/2 + 1/2 and 1/2 + 1.
    """
    weights = weigh(csr([0], [0, 1], [1, 2]), temper=1)
    assert weights == pytest.approx([0.5, 1.0, 1.5])


def test_the_mean_weight_is_one_over_chunks_so_that_an_epoch_stays_as_long() -> None:
    """Else schedules, which count steps, change with balance.

    Raw weights 1/2, 1/2, 1 of 4, 2 and 1 chunks: 7 chunks over 4.
    """
    weights = balanced_weights(
        np.array([4, 2, 1]), *csr([0], [0], [1]), temper=1, limit=9
    )
    assert weights == pytest.approx([0.875, 0.875, 1.75])


def test_the_limit_is_kept_and_the_rest_shared_out_in_proportion() -> None:
    """Else one rare clip is heard hundreds of times in an epoch, or epochs shrink.

    4 clips at 4 make 16 of 100; the other 84 are 42 for each class, 42/80 and 42/16.
    At a limit of 2.5 the second class reaches it in its turn: 80 w + 20 x 2.5 = 100.
    """
    four = weigh(SKEWED, temper=1, limit=4)
    assert four[[0, 80, 96]] == pytest.approx([0.525, 2.625, 4.0])
    lower = weigh(SKEWED, temper=1, limit=2.5)
    assert lower[[0, 80, 96]] == pytest.approx([0.625, 2.5, 2.5])
    assert weigh(SKEWED, temper=1, limit=1) == pytest.approx(np.ones(100))


def test_clips_without_labels_stay_in_once() -> None:
    """Else a student never hears the clips that only the teacher labels."""
    labels = csr([], [0], [0], [], [1], [])
    assert weigh(labels, temper=1) == pytest.approx([1, 0.75, 0.75, 1, 1.5, 1])
    assert weigh(csr([], []), temper=1) == pytest.approx([1, 1])


def mixed(mix: list[float] | None, balance: float | None) -> np.ndarray | None:
    """Weights of two folders, of 6 clips of 5 chunks and of 2 clips of 1."""
    return sampling_weights(
        np.array([5] * 6 + [1] * 2),
        *csr([0], [0], [0], [0], [1], [1], [0], [1]),
        clips_per_folder=(6, 2),
        balance=balance,
        balance_limit=10.0,
        mix=mix,
    )


def test_a_mix_gives_each_folder_its_share_of_the_chunks() -> None:
    """Else a small clean set drowns in a large one. 3 to 1 of 32 chunks: 24 and 8."""
    weights = mixed([3, 1], None)
    assert weights is not None
    assert weights == pytest.approx([24 / 30] * 6 + [8 / 2] * 2)


def test_a_mix_is_balanced_within_each_folder() -> None:
    """Else the share of a folder depends on how rare its classes are elsewhere."""
    weights = mixed([3, 1], 1.0)
    assert weights is not None
    assert weights == pytest.approx([0.6] * 4 + [1.2] * 2 + [4.0] * 2)


def test_folders_without_a_mix_are_balanced_as_one() -> None:
    """Else a class rare in one folder but common in all is raised.

    Five clips of class 0, three of class 1: 32 chunks over 21 / 5 + 11 / 3.
    """
    weights = mixed(None, 1.0)
    zero, one = 32 / (21 / 5 + 11 / 3) / np.array([5, 3])
    assert weights is not None
    assert weights == pytest.approx([zero] * 4 + [one] * 2 + [zero, one])


def test_nothing_asked_for_is_no_weights() -> None:
    """Else runs of older versions cannot be resumed."""
    assert mixed(None, None) is None


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ([1.0], r"mix = \[1.0\]: 1 shares for 2 audio folders; give one for each"),
        (
            [1.0, 0.0],
            r"mix = \[1.0, 0.0\]; expected positive numbers",
        ),
        ([1.0, float("nan")], "expected positive numbers"),
    ],
)
def test_a_mix_that_does_not_fit_is_refused(mix: list[float], message: str) -> None:
    """Else shares go to the wrong folders, or a folder is never heard."""
    with pytest.raises(ValueError, match=message):
        mixed(mix, None)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Six clips of 2 s with other keys than ``dataset``; not to be changed."""
    folder = tmp_path_factory.mktemp("second")
    source = write_source(folder / "source", num_clips=6)
    for path in source.audio.iterdir():
        path.rename(path.with_name("other" + path.name))
    text = source.segments.read_text().replace("clip", "otherclip")
    source.segments.write_text(text)
    result = run("shards.pack", *source.pack_arguments(folder / "packed"))
    assert result.returncode == 0, result.stderr
    return folder / "packed"


def class_shares(data: TrainingData, plan: Plan) -> np.ndarray:
    """[3] of the labels heard in 50 epochs, the share of each class."""
    index = data.audio.index
    heard = np.zeros(3)
    for epoch in range(50):
        for rows, _ in plan.steps(epoch):
            heard += index.table.weak_targets(rows, 3).sum(axis=0)
    return heard / heard.sum()


def test_an_epoch_of_real_shards_has_the_classes_that_balance_gives(
    dataset: Path,
) -> None:
    """Else the knob is connected to nothing.

    24 clips: 4 each of the class sets 0, 1, 02, 01, 01 and 12 (i % 3 and i % 2), so 16
    clips of class 0, 16 of class 1, 8 of class 2. Weights by 1 / clips of the class are
    1, 1, 3, 2, 2 and 3 sixteenths: class 0 is heard 1 + 3 + 2 + 2 times, and so on.
    """
    data = TrainingData.open([str(dataset)], None, chunk_seconds=1.0, alpha=1.0)
    plain = class_shares(data, data.plan(8, 0))
    assert plain == pytest.approx(np.array([0.4, 0.4, 0.2]), abs=0.001)
    plan = data.plan(8, 0, balance=1.0, balance_limit=9.0)
    assert plan.num_steps == 6
    balanced = class_shares(data, plan)
    assert balanced == pytest.approx(np.array([8, 8, 6]) / 22, abs=0.015)


def test_a_run_hears_its_folders_in_the_shares_of_mix(
    dataset: Path, second: Path
) -> None:
    """Else data.mix is connected to nothing. 60 chunks an epoch, 3 in 4 of the six."""
    folders = [str(dataset), str(second)]
    data = TrainingData.open(folders, None, chunk_seconds=1.0, alpha=1.0)
    plan = data.plan(4, 0, mix=[1, 3])
    assert plan.num_steps == 15
    heard = np.concatenate([rows for e in range(50) for rows, _ in plan.steps(e)])
    assert np.mean(heard >= 24) == pytest.approx(0.75, abs=0.02)


def test_training_hears_what_balance_and_mix_say(
    tmp_path: Path, dataset: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the config is read, and training goes on without it."""
    heard: list[int] = []
    batch = TrainingData.batch

    def spy(data: TrainingData, rows: np.ndarray, *rest: object) -> object:
        heard.extend(rows.tolist())
        return batch(data, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingData, "batch", spy)
    words = tiny_config(tmp_path, dataset, "epochs=1", "global_batch_size=4")
    words += [f"data.audio=[{dataset},{second}]", "data.mix=[1,9]", "data.balance=1"]
    train.main([*words, "data.balance_limit=1.25"])
    assert len(heard) == 60 and np.mean(np.array(heard) >= 24) >= 0.8
    per_clip = np.bincount(heard, minlength=30)[24:]
    assert per_clip.max() <= 2 * np.ceil(1.25 * 54 / 12) and per_clip.min() > 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.mix=[1,2]", "2 shares for 1 audio folders"),
        ("data.mix=[-1]", "data.mix.0 = -1: Input should be greater than"),
        ("data.mix=3", "expected a list, such as data.mix=[3]"),
        ("data.balance=1.5", "data.balance = 1.5: Input should be less than or equal"),
        ("data.balance_limit=0.5", "Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_balance_or_mix_is_refused_before_the_first_step(
    tmp_path: Path, dataset: Path, word: str, message: str
) -> None:
    """Else a job trains for days on a mixture nobody asked for."""
    with pytest.raises(ValueError) as error:
        train.main(tiny_config(tmp_path, dataset, word))
    assert message in str(error.value)
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert left <= {"status.json", "lock"}, "no checkpoint, no record of a step"


def test_balancing_without_labels_is_refused(tmp_path: Path, run: Run) -> None:
    """Else balance does nothing, in silence."""
    source = write_source(tmp_path / "source", num_clips=8)
    lines = source.segments.read_text().splitlines()
    bare = [line.partition('"')[0] + '""' if '"' in line else line for line in lines]
    source.segments.write_text("\n".join(bare) + "\n")
    assert not run("shards.pack", *source.pack_arguments(tmp_path / "o")).returncode
    reader = MemberReader(open_index(tmp_path / "o", kind="audio"))
    data = TrainingData(reader, None, Chunking.from_seconds(1.0, 16000), 1.0, (8,))
    with pytest.raises(ValueError, match="no clip has a label, so nothing to balance"):
        data.plan(4, 0, balance=1.0)


def test_a_run_resumed_with_another_balance_is_refused(
    tmp_path: Path, dataset: Path
) -> None:
    """Else half a run is balanced, and its order is neither of the two."""
    words = tiny_config(tmp_path, dataset, "epochs=1", "data.balance=1")
    train.main(words)
    checkpoint = load_newest(tmp_path / "run")
    with pytest.raises(ValueError, match="trained on other data or in another order"):
        train.main([*words, "data.balance=0.5"])
    data = TrainingData.open([str(dataset)], None, chunk_seconds=1.0, alpha=1.0)
    prints = {
        data.plan(8, 0, balance=b, balance_limit=20.0).fingerprint("")
        for b in (None, 0.0, 0.5, 1.0)
    }
    assert checkpoint is not None and len(prints) == 4
