"""Clips scored in windows, and second by second against true events."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn

from psl import evaluate, label
from psl.config import parse
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.labels import Labels
from psl.evaluation.segment_scores import segments_on_disk
from psl.evaluation.segments import Segments, measure_segments
from psl.evaluation.windows import WindowedModel, frame_bounds
from psl.weights.checkpoint import load_checkpoint
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import open_index

HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
EVENTS = [
    ("clip0_0", 0.0, 0.4, "/m/low"),
    ("clip0_0", 0.3, 0.9, "/m/high"),
    ("clip3_0", 1.5, 2.0, "/m/low"),
    ("clip5_0", 0.6, 0.65, "/m/mid"),  # short, but not lost
]


@pytest.fixture
def strong(tmp_path: Path) -> Path:
    """EVENTS as a TSV."""
    path = tmp_path / "strong.tsv"
    lines = [f"{key}\t{a}\t{b}\t{mid}\n" for key, a, b, mid in EVENTS]
    path.write_text(HEADER + "".join(lines))
    return path


def words(teacher: Path, audio: Path, out: Path, *more: str) -> list[str]:
    """Words of ``psl.evaluate``."""
    return [f"checkpoint={teacher}", f"audio={audio}", f"out={out}", *more]


def metrics_of(out: Path) -> dict[str, Any]:
    """metrics.json of an evaluation."""
    return json.loads((out / "metrics.json").read_text())


class Loudness(nn.Module):
    """A model of one class: frames of 100 samples, their mean is the probability."""

    frame_samples = 100

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """As many as are begun."""
        return (num_samples + 99) // 100

    def forward(
        self, waveform: torch.Tensor, num_samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means over the samples before the padding, [B, 1], and over frames."""
        clip = waveform.sum(dim=1, keepdim=True) / num_samples[:, None]
        return clip, waveform.unfold(1, 100, 100).mean(dim=2)[:, :, None]


def test_a_clip_s_score_is_the_mean_of_its_windows_as_they_are_labelled(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """A 2-s student would be judged on other windows than it learned from.

    Windows of 0.6 s every 0.5 s of 2 s: the last begins at 1.5 s and is not full.
    """
    more = ["chunk_seconds=0.6", "hop_seconds=0.5"]
    label.main([f"teacher={teacher}", f"audio={dataset}", f"out={tmp_path}/l", *more])
    index, labels = open_index(dataset, kind="audio"), tmp_path / "l"
    reader = MemberReader(open_index(labels, kind="labels"))
    stored = [reader.labels(row).astype(np.float64) for row in range(len(index))]
    assert {len(of_clip) for of_clip in stored} == {4}
    targets = index.table.weak_targets(np.arange(len(index)), 3)
    expected = average_precision_score(targets, [x.mean(axis=0) for x in stored])
    windows = ["window_seconds=0.6", "hop_seconds=0.5", "batch_size=5"]
    evaluate.main(words(teacher, dataset, tmp_path / "e", *windows))
    found = metrics_of(tmp_path / "e")
    assert found["mAP"] == pytest.approx(expected, abs=2e-3)  # labels are float16
    assert (found["window_seconds"], found["hop_seconds"]) == (0.6, 0.5)
    evaluate.main(words(teacher, dataset, tmp_path / "whole"))
    assert "window_seconds" not in metrics_of(tmp_path / "whole")
    assert "segments" not in metrics_of(tmp_path / "whole")


@settings(max_examples=25)
@given(length=st.integers(1, 60), window=st.integers(1, 30), share=st.floats(0.05, 1.0))
def test_windows_are_scored_alone_and_averaged(
    length: int, window: int, share: float
) -> None:
    """Padding, or another clip of the batch, would change a score."""
    chunking = Chunking(window, max(1, round(window * share)))
    model = WindowedModel(
        Loudness(), chunking, shortest_samples=200, windows_at_a_time=3
    )
    waveform = torch.rand(2, 200)
    waveform[:, length:] = 0
    clip, of_windows = model(waveform, torch.tensor([length, length]))
    starts = range(0, length, chunking.hop_samples)
    starts = starts[: of_windows.shape[1]]
    expected = [waveform[:, a : min(a + window, length)].mean(dim=1) for a in starts]
    torch.testing.assert_close(of_windows[:, :, 0], torch.stack(expected, dim=1))
    torch.testing.assert_close(clip[:, 0], torch.stack(expected).mean(dim=0))


@settings(max_examples=40)
@given(
    length=st.integers(1, 900),
    segment=st.integers(20, 300),
    window=st.one_of(st.none(), st.integers(100, 300)),
)
def test_a_segment_s_score_is_its_frames_by_the_time_they_share(
    length: int, segment: int, window: int | None
) -> None:
    """Scores would slip in time, in every clip, by up to a frame.

    The oracle writes each frame's probability under every sample that it lasts. Of
    windows that overlap a sample has the mean where segments are as windows are.
    """
    model: Any = Loudness()
    if window is not None:
        chunking = Chunking(window, window)
        model = WindowedModel(
            model, chunking, shortest_samples=100, windows_at_a_time=2
        )
    waveform = torch.zeros(1, max(100, -(-length // 100) * 100))
    waveform[0, :length] = torch.rand(length)
    _, frames = model(waveform, torch.tensor([length]))
    size = window or 100
    by_sample = np.repeat(frames[0, :, 0].numpy(), size)[:length]
    by_sample = np.pad(by_sample, (0, length - len(by_sample)), mode="edge")
    pieces = Chunking(segment, segment)
    number = int(pieces.num_chunks(np.array([length]))[0])
    segments = Segments(
        seconds=1.0,
        chunking=pieces,
        rows=np.array([4]),
        num_samples=np.array([length]),
        first=np.array([0, number]),
        truth=Labels.of(np.zeros((number, 1), np.bool_)),
    )
    with segments_on_disk(
        segments,
        [0],
        lambda n: frame_bounds(model, n),
        Accelerator(cpu=True),
        folder=tempfile.gettempdir(),
        batch_size=1,
    ) as scores:
        assert scores is not None
        scores.add(np.array([3]), frames)  # a clip that the CSV does not name
        scores.add(np.array([4]), frames)
        file = scores.sealed()
        assert file is not None
        (found,) = file.columns()
    expected = [
        by_sample[s * segment : min((s + 1) * segment, length)].mean()
        for s in range(number)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_segment_map_is_scikit_learn_s(
    teacher: Path, dataset: Path, strong: Path, tmp_path: Path
) -> None:
    """What a model knows of "when" could not be compared with anybody else's."""
    more = [f"strong={strong}", "segment_seconds=0.5", "window_seconds=0.5"]
    evaluate.main(words(teacher, dataset, tmp_path / "e", *more))
    index = open_index(dataset, kind="audio")
    model, reader = load_checkpoint(teacher).build_model(), MemberReader(index)
    rows = [r for r in range(len(index)) if index.key(r) in {e[0] for e in EVENTS}]
    true, scores = np.zeros((3, 4, 3), np.bool_), []
    for place, row in enumerate(rows):
        pcm = reader.samples(row, 0, 32000).astype(np.float32) / 32768
        with torch.inference_mode():
            probs, _ = model(torch.from_numpy(pcm).view(4, 8000))
        scores.append(probs.numpy())
        for key, start, end, mid in EVENTS:
            if key == index.key(row):
                for k in range(4):
                    inside = min(end, k / 2 + 0.5) - max(start, k / 2)
                    column = index.classes.index_of[mid]
                    true[place, k, column] |= inside >= min(0.125, (end - start) / 2)
    flat, stacked = true.reshape(12, 3), np.concatenate(scores)
    expected = average_precision_score(flat, stacked, average=None)
    found = metrics_of(tmp_path / "e")["segments"]
    assert found["mAP"] == pytest.approx(expected.mean(), abs=1e-6)
    assert (found["num_segments"], found["num_clips"]) == (12, 3)
    within = []
    for column in range(3):
        holds = np.repeat(true[:, :, column].any(axis=1), 4)
        ap = average_precision_score(flat[holds, column], stacked[holds, column])
        within.append((ap, flat[holds, column].mean()))
    assert found["mAP_in_positive_clips"] == pytest.approx(np.mean(within, axis=0)[0])
    chance = found["chance_in_positive_clips"]
    assert chance == pytest.approx(np.mean(within, axis=0)[1])
    with open(tmp_path / "e" / "per_class.csv", newline="") as stream:
        by_class = {r["mid"]: float(r["segment_ap"]) for r in csv.DictReader(stream)}
    by_mid = dict(zip(index.classes.mids, expected, strict=True))
    assert by_class == pytest.approx(by_mid, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "strong.tsv: no event; expected events of the clips"),
        (HEADER + "other_0\t0\t1\t/m/low\n", "segments such as 'other_0'"),
        (HEADER + "clip0_0\t2.0\t3.0\t/m/low\n", "nothing inside .*made for$"),
        (
            HEADER + "clip0_0\t0\t1\t/m/low\nclip0_0\t0\t1\t/m/new\n",
            "not in the class list: '/m/new'.* or max_left_out=0.5",
        ),
        (HEADER + "clip0_0\tnan\t1\t/m/low\n", "line 2: found"),
    ],
)
def test_truth_of_something_else_is_refused_before_scoring(
    teacher: Path, dataset: Path, tmp_path: Path, text: str, message: str
) -> None:
    """A number would be printed that measures nothing."""
    path = tmp_path / "strong.tsv"
    path.write_text(text)
    with pytest.raises(ShardError, match=message):
        evaluate.main(words(teacher, dataset, tmp_path / "e", f"strong={path}"))
    assert not (tmp_path / "e").exists()


def test_scores_that_are_not_finite_have_no_segment_map() -> None:
    """A broken model would get a number."""
    pieces = Chunking(10, 10)
    truth, one = np.ones((2, 1), np.bool_), np.array([20])
    segments = Segments(
        1.0, pieces, np.array([0]), one, np.array([0, 2]), Labels.of(truth)
    )
    with pytest.raises(ValueError, match="score is not finite"):
        measure_segments(segments, np.array([[0.5], [np.nan]]))
    all_true = measure_segments(segments, np.array([[0.5], [0.2]])).summary()
    assert all_true["mAP"] == 1.0
    assert all_true["mAP_in_positive_clips"] is None
    assert all_true["chance_in_positive_clips"] is None
    silent = Segments(
        1.0, pieces, np.array([0]), one, np.array([0, 2]), Labels.of(~truth)
    )
    with pytest.raises(ValueError, match="no segment has an event"):
        measure_segments(silent, np.array([[0.5], [0.2]]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hop_seconds": 1.0}, "evaluate: hop_seconds needs window_seconds; set both"),
        ({"hop_seconds": 3.0, "window_seconds": 2.0}, "hop_seconds = 3 is longer than"),
        ({"segment_seconds": 1.0}, "segment_seconds does nothing without strong"),
        ({"max_left_out": 0.5}, "max_left_out does nothing without strong"),
        ({"window_seconds": 0}, "window_seconds = 0: Input should be greater"),
    ],
)
def test_options_that_do_nothing_are_refused(
    given: dict[str, Any], message: str
) -> None:
    """A user would believe that their model was judged in another way."""
    base = {"checkpoint": "c", "audio": "a", "out": "o"}
    with pytest.raises(ValueError, match=message):
        parse(EvaluateConfig, {**base, **given}, where="evaluate")
