"""Runs tools/mini/audioset.py as a user does and reads its files with other readers."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

INSTALL = "the miniature AudioSet's sources are not installed (see tools)"
pytest.importorskip("tinysoundfont", reason=INSTALL)
pytest.importorskip("espeakng_loader", reason=INSTALL)

SPLITS = ("full", "balanced", "dev", "eval")
NUM_CLIPS = {"full": 30, "balanced": 6, "dev": 4, "eval": 6}
QUICK_CLASSES = {
    "/m/09x0r": "Speech",
    "/m/05zppz": "Male speech, man speaking",
    "/m/02zsn": "Female speech, woman speaking",
    "/m/0l15bq": "Clapping",
    "/m/028ght": "Applause",
    "/m/020bb7": "Bird vocalization, bird call, bird song",
    "/m/02sgy": "Electric guitar",
    "/m/018vs": "Bass guitar",
    "/m/042v_gx": "Acoustic guitar",
    "/m/05r5c": "Piano",
    "/m/013y1f": "Organ",
    "/m/06rvn": "Snare drum",
    "/m/03qtq": "Hi-hat",
    "/m/0dwtp": "Glockenspiel",
    "/m/07y_7": "Violin, fiddle",
    "/m/0l14j_": "Flute",
    "/m/0192l": "Bagpipes",
    "/m/034srq": "Waves, surf",
    "/m/09ct_": "Helicopter",
    "/m/07pp8cl": "Telephone bell ringing",
    "/m/032s66": "Gunshot, gunfire",
}


def command(out: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tools.mini.audioset",
        "--out",
        str(out),
        "--scale",
        "0.02",
        *options,
    ]


def run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *options), capture_output=True, text=True)


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def weak_labels(out: Path, split: str) -> dict[str, set[str]]:
    lines = (out / f"{split}_segments.csv").read_text().splitlines()
    assert [line[0] for line in lines[:3]] == ["#"] * 3
    rows = list(csv.reader(lines[3:], skipinitialspace=True))
    assert all(row[1:3] == ["0.000", "10.000"] and len(row) == 4 for row in rows)
    assert f"num_ytids={len(rows)}, " in lines[1]
    return {row[0]: set(row[3].split(",")) for row in rows}


def strong_events(out: Path) -> dict[str, list[tuple[float, float, str]]]:
    events: dict[str, list[tuple[float, float, str]]] = {}
    with open(out / "strong.csv", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            clip, start_ms = row["segment_id"].rsplit("_", 1)
            assert start_ms == "0"
            start, end = row["start_time_seconds"], row["end_time_seconds"]
            events.setdefault(clip, []).append((float(start), float(end), row["label"]))
    return events


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


@pytest.fixture(params=["tools.mini.sounds"])
def tool(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini") / "set"
    result = run(out, "--workers", "2")
    assert result.returncode == 0, result.stderr
    return out


def test_any_number_of_workers_writes_the_same_bytes(
    built: Path, tmp_path: Path
) -> None:
    """Hurt: whoever compares a figure with one measured on another machine's cores."""
    run(tmp_path / "one", "--workers", "1")
    assert contents(tmp_path / "one") == contents(built)


def test_another_seed_makes_other_clips(built: Path, tmp_path: Path) -> None:
    """Hurt: whoever reports a spread over data seeds that were all the same data."""
    run(tmp_path / "other", "--seed", "1")
    ours, others = contents(built), contents(tmp_path / "other")
    assert set(ours) == set(others)
    assert not any(ours[n] == others[n] for n in ours if n.endswith(".wav"))


def test_every_clip_is_ten_audible_seconds_that_do_not_clip(built: Path) -> None:
    """Hurt: the packer, which takes length and rate on trust, and the log-mel's dB."""
    names = {path.name for path in (built / "audio").iterdir()}
    assert names == {
        f"mini-q-{split}-{number:05d}.wav"
        for split, num_clips in NUM_CLIPS.items()
        for number in range(num_clips)
    }
    for name in names:
        info = soundfile.info(built / "audio" / name)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, 160000)
        assert (info.format, info.subtype) == ("WAV", "PCM_16")
        samples, _ = soundfile.read(built / "audio" / name)
        assert np.abs(samples).max() < 0.995
        assert rms(samples) > 1e-3


def test_the_quick_profile_has_these_classes_in_audiosets_order(built: Path) -> None:
    """Hurt: everyone whose column 7 is then another class than in the class list."""
    with open(built / "class_labels_indices.csv", newline="") as file:
        rows = list(csv.reader(file))
    expected = [["index", "mid", "display_name"]]
    for index, (mid, name) in enumerate(QUICK_CLASSES.items()):
        expected.append([str(index), mid, name])
    assert rows == expected
    raw = (built / "class_labels_indices.csv").read_text().splitlines()
    assert raw[1] == '0,/m/09x0r,"Speech"'


def test_every_label_is_in_the_class_list(built: Path) -> None:
    """Hurt: the target builder, which has no column for an unknown mid."""
    for split in SPLITS:
        labels = weak_labels(built, split)
        assert len(labels) == NUM_CLIPS[split]
        assert set().union(*labels.values()) <= set(QUICK_CLASSES)


@pytest.mark.parametrize("split", ["dev", "eval"])
def test_dev_and_eval_labels_are_complete(built: Path, split: str) -> None:
    """Hurt: every mAP, where a sounding but unlabelled class is a false alarm."""
    strong = strong_events(built)
    for clip, labels in weak_labels(built, split).items():
        assert labels == {mid for _, _, mid in strong[clip]}


def test_training_labels_are_true_but_incomplete(built: Path) -> None:
    """Hurt: the paper's effect, which lives on labels missing, but never wrong."""
    strong = strong_events(built)
    num_weak = num_true = 0
    for split in ("full", "balanced"):
        for clip, labels in weak_labels(built, split).items():
            true = {mid for _, _, mid in strong[clip]}
            assert labels and labels <= true
            num_weak, num_true = num_weak + len(labels), num_true + len(true)
    assert 0.45 < num_weak / num_true < 0.8


def test_events_lie_within_their_clip(built: Path) -> None:
    """Hurt: the chunk labels, cut from these times."""
    for events in strong_events(built).values():
        assert 1 <= len(events) <= 8
        for start, end, _ in events:
            assert 0.0 <= start < end <= 10.0
            assert 0.04 < end - start < 3.2


def test_speech_sounds_exactly_when_a_man_or_a_woman_speaks(built: Path) -> None:
    """Hurt: the parent class, which would be neither complete nor clean."""
    for events in strong_events(built).values():
        parent = [event[:2] for event in events if event[2] == "/m/09x0r"]
        voices = [e[:2] for e in events if e[2] in ("/m/05zppz", "/m/02zsn")]
        assert sorted(parent) == sorted(voices)


def test_events_are_louder_than_the_rest_of_their_clip(built: Path) -> None:
    """Hurt: training on labels of silence, or of a moment when nothing happens."""
    louder = []
    for clip, events in strong_events(built).items():
        samples, _ = soundfile.read(built / "audio" / f"{clip}.wav")
        is_event = np.zeros(len(samples), dtype=bool)
        for start, end, _ in events:
            is_event[int(start * 16000) : int(end * 16000)] = True
        quiet = np.percentile(
            [rms(samples[i : i + 1600]) for i in range(0, 160000, 1600)], 10
        )
        for start, end, _ in events:
            span = samples[int(start * 16000) : int(end * 16000)]
            louder.append(rms(span) > 2.0 * quiet)
    assert np.mean(louder) > 0.95


def test_a_finished_set_is_left_alone(built: Path) -> None:
    """Hurt: whoever puts the command before every experiment and waits for nothing."""
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    result = run(built)
    assert result.returncode == 0 and "already built" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


def test_another_set_in_the_same_folder_is_an_error(built: Path) -> None:
    """Hurt: whoever takes the old seed's clips for the new one's."""
    before = contents(built)
    for options in (["--seed", "1"], ["--profile", "table"], ["--scale", "0.01"]):
        result = run(built, *options)
        assert result.returncode == 1
        assert "choose another --out or remove it" in result.stderr
    assert contents(built) == before


def test_a_killed_build_leaves_whole_files_and_is_completed(
    built: Path, tmp_path: Path
) -> None:
    """Hurt: whoever's session ends in the middle and starts the command again."""
    out = tmp_path / "killed"
    process = subprocess.Popen(command(out, "--workers", "2"), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(out.glob("audio/*.wav"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # its pipe closes when the workers are gone too
    assert not (out / "mini.json").exists()
    for path in out.glob("audio/*.wav"):
        assert path.read_bytes() == (built / "audio" / path.name).read_bytes()
    assert run(out, "--workers", "2").returncode == 0
    assert contents(out) == contents(built)


def test_the_table_profile_has_a_shifted_split_and_34_classes(tmp_path: Path) -> None:
    """Hurt: the generalisation table, which needs voices that nobody trained on."""
    result = run(tmp_path / "t", "--profile", "table", "--scale", "0.001")
    assert result.returncode == 0, result.stderr
    description = json.loads((tmp_path / "t" / "mini.json").read_text())
    sizes = dict(full=4, balanced=4, dev=4, eval=4, shifted=4)
    assert description["num_clips"] == sizes
    assert sorted(weak_labels(tmp_path / "t", "shifted")) == [
        f"mini-t-shifted-{number:05d}" for number in range(4)
    ]
    classes = (tmp_path / "t" / "class_labels_indices.csv").read_text().splitlines()
    assert len(classes) == 35


def test_shifted_voices_are_new_and_of_the_same_classes(tool: ModuleType) -> None:
    """Hurt: the generalisation table, whose new voices would be training voices."""
    voices = {s.mid: s.sources for s in tool.class_table("table") if s.kind == "voice"}
    assert voices.keys() == tool.HELD_OUT_VOICES.keys() == {"/m/05zppz", "/m/02zsn"}
    training = {name for names in voices.values() for name in names}
    held_out = {name for names in tool.HELD_OUT_VOICES.values() for name in names}
    assert len(training) == 20 and len(held_out) == 11
    assert not training & held_out


def test_a_text_sounds_the_same_whatever_was_said_before(tool: ModuleType) -> None:
    """Hurt: every comparison of runs, once clips depend on the order of rendering."""
    settings = dict(rate=170, pitch=50, random_seed=7)
    first = tool.speak("woda dom mały", "pl+Mike", **settings)
    tool.speak("water house", "en+f2", rate=200, pitch=30, random_seed=8)
    assert len(first) > 8000
    np.testing.assert_array_equal(
        tool.speak("woda dom mały", "pl+Mike", **settings), first
    )


def test_an_unknown_voice_is_an_error(tool: ModuleType) -> None:
    """Hurt: the female class, since espeak-ng speaks as a man when it lacks a voice."""
    with pytest.raises(RuntimeError, match="no voice variant 'en.nobody'"):
        tool.speak("water", "en+nobody", rate=170, pitch=50, random_seed=7)


def test_a_class_that_renders_silence_is_an_error(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hurt: a class whose every label would be of silence."""
    monkeypatch.setattr(tool, "play", lambda *_, **__: np.zeros(16000))
    piano = next(s for s in tool.class_table("quick") if s.name == "Piano")
    with pytest.raises(RuntimeError, match="'Piano' rendered silence 8 times"):
        tool.draw_event(
            np.random.default_rng(0),
            piano,
            level_dbfs=(-28.0, -14.0),
            floor_rms=1e-3,
            is_shifted=False,
        )


@pytest.mark.parametrize("tool", ["tools.mini.audioset"], indirect=True)
def test_a_missing_source_names_the_command_that_installs_it(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hurt: the newcomer, since plain pip fails on tinysoundfont's PyAudio."""
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(RuntimeError) as caught:
        tool.describe("quick", 0, 1.0)
    assert str(caught.value) == (
        "tinysoundfont not installed: "
        "pip install pretty_midi==0.2.11.post0 espeakng-loader==0.2.4 "
        "&& pip install --no-deps tinysoundfont==0.3.7"
    )
