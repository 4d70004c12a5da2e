"""psl tag and Tagger.tag on real files: windows, events, tables and streams."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import psl
from psl import tag
from psl.tagger import Tagger
from psl.tagging.live import listen
from psl.tagging.rules import EventMaker, Rules
from psl.tagging.thresholds import fit
from psl.tagging.windows import Cut, Window
from shards.audio.live import stream_pcm
from shards.audio.streams import Pipe
from shards.format.classes import Classes
from shards.system.exits import JobError
from tests.api.conftest import run_dir  # noqa: F401
from tests.conftest import RATE

CLASSES = Classes(("/m/a", "/m/b"), ("A", "B"))


@pytest.fixture
def tagger(run_dir: Path) -> Tagger:  # noqa: F811
    """A tiny model."""
    return psl.load(run_dir, device="cpu")


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    """[N] int16."""
    generator = np.random.default_rng(0)
    return generator.integers(-9000, 9000, round(seconds * rate)).astype(np.int16)


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
def test_a_window_has_the_scores_that_it_has_in_a_file_of_its_own(
    tagger: Tagger, tmp_path: Path, form: str
) -> None:
    """What a recorder heard at noon would depend on the morning."""
    soundfile.write(tmp_path / f"a.{form}", noise(7.3), RATE, format=form.upper())
    found = list(tagger.windows(tmp_path / f"a.{form}", Cut(2.0, 1.0)))
    starts = [w.start for w in found]
    assert starts[:-1] == [0, 1, 2, 3, 4, 5]  # the last one ends with the file
    assert starts[-1] == pytest.approx(5.3, abs=0.1)
    assert found[-1].end == starts[-1] + 2
    decoded, _ = soundfile.read(tmp_path / f"a.{form}", dtype="int16")
    if form != "mp3":  # whose decoders differ
        soundfile.write(tmp_path / "cut.wav", decoded[3 * RATE : 5 * RATE], RATE)
        (alone,) = tagger.windows(tmp_path / "cut.wav", Cut(2.0))
        np.testing.assert_allclose(alone.probs, found[3].probs, atol=1e-6)


def test_silence_has_no_tag_and_no_event(tagger: Tagger, tmp_path: Path) -> None:
    """A night of nothing would be full of events."""
    soundfile.write(tmp_path / "s.wav", np.zeros(5 * RATE, np.int16), RATE)
    (window,) = tagger.tag(tmp_path / "s.wav", threshold=0.0)
    assert window["tags"] == []
    path = tmp_path / "s.wav"
    assert not list(tagger.tag(path, window_seconds=1, threshold=0.0, events=True))


def test_windows_over_the_threshold_become_events_by_duration_and_gap() -> None:
    """One bark would be ten, or a click an hour."""
    on = [0, 1, 1, 0, 1, 0, 0, 1, 0]  # 1 to 3 s and 4 to 5 s, a gap of 1 s; 7 to 8 s
    rules = Rules(0.5, min_seconds=2, max_gap_seconds=1)
    maker, told = EventMaker(CLASSES, rules), []
    for second, value in enumerate(on):
        probs = np.array([0.9 * value, 0.4], np.float32)
        for e in maker.add(Window(second, second + 1, probs)):
            told.append((second, e.state, e.start, e.end, e.name))
    told += [(9, e.state, e.start, e.end, e.name) for e in maker.finish()]
    assert told == [(2, "begin", 1, 3, "A"), (7, "end", 1, 5, "A")]


def test_a_live_sound_is_told_when_its_window_is_complete() -> None:
    """An alarm would come when the stream ends."""
    fed = 0

    def read(_: int) -> bytes:  # half a second at a time; sound from 3 s on, to 6 s
        nonlocal fed
        fed += 1
        loud = 6 < fed <= 12
        return (noise(0.5) if loud else np.zeros(RATE // 2, np.int16)).tobytes()

    def score(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probs = np.full((len(waveform), 2), 0.9, np.float32)
        return probs, probs[:, None]

    events = listen(
        stream_pcm(Pipe(read), rate=RATE, sample_rate=RATE),
        score,
        CLASSES,
        rate=RATE,
        cut=Cut(2.0, 1.0),
        rules=Rules(0.5),
        frame_samples=None,
    )
    first = next(events)
    assert first.state == "begin" and fed / 2 <= 3 + 2 + 1  # window and hop
    assert fed / 2 == 4  # the window from 2 to 4 s


def test_a_bad_file_among_others_is_counted_and_the_rest_is_written(
    run_dir: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """One broken file would cost a thousand, or be missed."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, noise(1), RATE)
    (folder / "bad.wav").write_bytes(b"no audio")
    out = tmp_path / "t.csv"
    words = [str(run_dir), str(folder), "--out", str(out), "--device", "cpu"]
    with pytest.raises(JobError, match="1 of 3 files could not be read") as caught:
        tag.main(words)
    assert caught.value.status == 78
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert {Path(row["file"]).name for row in rows} == {"a.wav", "b.wav"}
    assert {p.name for p in tmp_path.iterdir()} == {"in", "t.csv"}


def test_json_lines_list_every_class_highest_first(
    run_dir: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A program that reads them would take the wrong class."""
    soundfile.write(tmp_path / "a.wav", noise(2), RATE)
    out = tmp_path / "a.jsonl"
    words = [str(run_dir), str(tmp_path / "a.wav"), "--all", "--out", str(out)]
    tag.main([*words, "--device", "cpu"])
    (window,) = map(json.loads, out.read_text().splitlines())
    assert (window["start"], window["end"]) == (0, 2)
    found = [t["probability"] for t in window["tags"]]
    assert len(found) == 3 and found == sorted(found, reverse=True)
    assert set(window["tags"][0]) == {"name", "mid", "probability"}


def test_a_threshold_has_the_highest_f1_or_the_precision() -> None:
    """Every class would be reported too often, or never."""
    positive = np.array([1, 0, 1, 0, 0], bool)
    scores = np.array([0.9, 0.8, 0.6, 0.2, 0.1], np.float32)
    best = fit(positive, scores)  # takes in three: precision 2/3, recall 1
    assert best.threshold == pytest.approx(0.4) and best.f1 == pytest.approx(0.8)
    exact = fit(positive, scores, precision=1.0)
    assert exact.threshold == pytest.approx(0.85) and exact.recall == 0.5
