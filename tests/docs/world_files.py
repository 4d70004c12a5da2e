"""Sounds, lists and tables of the folder in which the pages' commands are run.

Owns what a reader brings along. tests/docs/world.py makes datasets and models of it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile

from psl.teachers.audioset import audioset_classes

RATE = 16000
TONES_HZ = {"Dog": 300.0, "Rain": 1200.0, "Sneeze": 4000.0}
"""Names of AudioSet's, so that published teachers know them."""
NUM_CLIPS = 24
"""In wavs; a third as many are in more_wavs."""
NUM_CLASSES = 25
"""In the class list: the three, and others that no clip has."""
_NUM_LESSONS = 190
"""Of 2 s: a tenth is held out, and the rest must fill a step of 320 s."""


def write(folder: Path) -> None:
    """Write everything."""
    _write_sounds(folder)
    mids = _write_classes(folder)
    _write_segments(folder, mids)
    _write_events(folder, mids)
    _write_desed(folder)
    _write_soft_labels(folder)
    _write_corrections(folder, mids)


def _tones_of(number: int) -> list[str]:
    names = list(TONES_HZ)
    return [names[c] for c in sorted({number % 3, number % 2})]


def _write_sounds(folder: Path) -> None:
    """Every file of audio that a page names, and folders of them."""
    rng = np.random.default_rng(0)

    def sound(path: str, names: Iterable[str], seconds: float = 2.0) -> None:
        times = np.arange(round(seconds * RATE)) / RATE
        wave = 0.01 * rng.standard_normal(len(times))
        wave += sum(0.2 * np.sin(2 * np.pi * TONES_HZ[n] * times) for n in names)
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, wave, RATE)

    for number in range(NUM_CLIPS):
        sound(f"wavs/clip{number}.wav", _tones_of(number))
        sound(f"audio/train/weak/weak{number}.wav", _tones_of(number))
    for number in range(NUM_CLIPS // 3):
        sound(f"more_wavs/more{number}.wav", _tones_of(number))
        sound(f"audio/eval/clip{number}_0_2000.flac", _tones_of(number))
        sound(f"audio/validation/validation/{number}.wav", _tones_of(number))
    for number in range(_NUM_LESSONS):
        sound(f"lessons/lesson{number}.flac", _tones_of(number))
    for name in TONES_HZ:
        for tree, count in (("sounds", 5), ("test", 2), ("test_sounds", 2)):
            for number in range(count):
                sound(f"{tree}/{name}/{number}.wav", [name])
    for path in ("street/monday.flac", "street/night.wav"):
        sound(path, [], 4.0)
    for path in ("dog.mp3", "yard.wav", "yard.flac", "door.wav", "six_hours.wav"):
        sound(path, ["Dog"], 5.0)
    sound("recordings/monday.wav", ["Rain"], 6.0)
    (folder / "esc10").mkdir()
    (folder / "esc10" / "audio").symlink_to(folder / "wavs")


def _write_classes(folder: Path) -> dict[str, str]:
    """The class list, and the mid of each name."""
    known = dict(zip(audioset_classes().names, audioset_classes().mids, strict=True))
    others = [name for name in known if name not in TONES_HZ]
    names = [*TONES_HZ, *others[: NUM_CLASSES - len(TONES_HZ)]]
    mids = {name: known[name] for name in names}
    rows = [(i, mid, name) for i, (name, mid) in enumerate(mids.items())]
    for place in (".", "esc10", "lists"):
        path = folder / place / "class_labels_indices.csv"
        _write_table(path, [("index", "mid", "display_name"), *rows], ",")
    return mids


def _write_segments(folder: Path, mids: dict[str, str]) -> None:
    for names, prefix, count in (
        (("train", "balanced_train_segments", "eval_segments"), "clip", NUM_CLIPS),
        (("my_eval_labels", "lists/eval_segments"), "clip", NUM_CLIPS),
        (("esc10/train_segments", "esc10/eval_segments"), "clip", NUM_CLIPS),
        (("audio/eval/eval_segments.present",), "clip", NUM_CLIPS // 3),
        (("more",), "more", NUM_CLIPS // 3),
        (("lessons",), "lesson", _NUM_LESSONS),
    ):
        rows = [
            (f"{prefix}{n}", 0, 2, ",".join(mids[name] for name in _tones_of(n)))
            for n in range(count)
        ]
        for name in names:
            _write_table(folder / f"{name}.csv", rows, ",")


def _write_events(folder: Path, mids: dict[str, str]) -> None:
    """True events in AudioSet-strong's form: dogs in the first half of their clips."""
    times = ("start_time_seconds", "end_time_seconds")
    rows = [
        (f"clip{number}_0", 0.0, 1.0 if name == "Dog" else 2.0, mids[name])
        for number in range(NUM_CLIPS)
        for name in _tones_of(number)
    ]
    table = [("segment_id", *times, "label"), *rows]
    for name in ("eval", "dev", "audioset_eval", "audioset_train"):
        _write_table(folder / f"{name}_strong.tsv", table, "\t")
    (folder / "data" / "mini-table").mkdir(parents=True)
    _write_table(folder / "data" / "mini-table" / "strong.csv", table, ",")


def _write_desed(folder: Path) -> None:
    """DESED's lists and the class list that its section describes."""
    rows = [(i, name, name) for i, name in enumerate(TONES_HZ)]
    head = ("index", "mid", "display_name")
    _write_table(folder / "classes.csv", [head, *rows], ",")
    weak = [(f"weak{n}.wav", ",".join(_tones_of(n))) for n in range(NUM_CLIPS)]
    strong = [
        (f"{number}.wav", 0.0, 2.0, name)
        for number in range(NUM_CLIPS // 3)
        for name in _tones_of(number)
    ]
    lists = folder / "metadata"
    _write_table(
        lists / "train" / "weak.tsv", [("filename", "event_labels"), *weak], "\t"
    )
    head4 = ("filename", "onset", "offset", "event_label")
    _write_table(lists / "validation" / "validation.tsv", [head4, *strong], "\t")


def _write_soft_labels(folder: Path) -> None:
    """Others' labels of every clip, and windows of psl suggest with a name each."""
    rng = np.random.default_rng(1)
    soft = {
        "key": [f"clip{number}_0" for number in range(NUM_CLIPS)],
        "chunk": [0] * NUM_CLIPS,
        "probabilities": rng.random((NUM_CLIPS, NUM_CLASSES)).tolist(),
    }
    pa.parquet.write_table(pa.table(soft), folder / "soft.parquet")
    head = ("file", "start", "end", "label")
    windows = [("recordings/monday.wav", start, start + 2, "Rain") for start in (0, 2)]
    _write_table(folder / "labelled.csv", [head, *windows], ",")


def _write_corrections(folder: Path, mids: dict[str, str]) -> None:
    """What somebody said of one clip in psl review."""
    line = {"id": 1, "time": "2026-11-29T12:00:00+00:00", "action": "decided"}
    line |= {"key": "clip0_0", "start": 0.0, "end": 2.0}
    lines = [{"psl_corrections": 1}, {**line, "classes": {mids["Dog"]: True}}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    for name in ("corrections", "eval_corrections"):
        (folder / f"{name}.jsonl").write_text(text)


def _write_table(path: Path, rows: Iterable[Sequence[object]], delimiter: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
