"""Lists in DESED's form become clips; what does not fit is refused by line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.weak_labels import LabelReader
from shards.pack import main as pack
from shards.packing.sources import desed
from shards.packing.sources.listing import Listing
from tests.shards.test_fuzz import fuzz, mutated

NAMES = ("Alarm_bell_ringing", "Cat", "Speech")
CLASSES = Classes(tuple(f"/m/{n.lower()}" for n in NAMES), NAMES)
WEAK = (
    "filename\tevent_labels\nY--0w1YA1Hm4_30.000_40.000.wav\tSpeech,Cat\nb.wav\tCat\n"
)
STRONG = (
    "filename\tonset\toffset\tevent_label\n"
    "12.wav\t0.5\t1.25\tCat\n12.wav\t2.0\t3.0\tCat\n12.wav\t2.5\t4.0\tSpeech\n"
    "13.wav\t\t\t\n"
)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    for name in (
        "weak/Y--0w1YA1Hm4_30.000_40.000.wav",
        "weak/b.wav",
        "12.wav",
        "13.wav",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(16000, 0.25), 16000)
    return folder


def listed(audio: Path, *texts: str) -> Listing:
    paths = []
    for number, text in enumerate(texts):
        path = audio.parent / f"{number}.tsv"
        path.write_text(text)
        paths.append(str(path))
    return desed.list_clips(audio, paths, LabelReader(CLASSES))


def test_weak_and_strong_lists_become_weak_labels(audio: Path) -> None:
    """An event that is listed twice is one label; a row without one is a clip."""
    listing = listed(audio, WEAK, STRONG)
    assert listing.missing == []
    found = {c.key: (c.clip_id, c.start_seconds, c.labels) for c in listing.clips}
    assert found == {
        "--0w1YA1Hm4_30000": ("--0w1YA1Hm4", 30.0, (1, 2)),
        "b_0": ("b", 0.0, (1,)),
        "12_0": ("12", 0.0, (1, 2)),
        "13_0": ("13", 0.0, ()),
    }


def test_a_file_that_is_gone_is_missing(audio: Path) -> None:
    """YouTube loses files every week."""
    (audio / "weak" / "b.wav").unlink()
    listing = listed(audio, WEAK)
    assert [line[:2] for line in listing.missing] == [["b_0", "missing"]]
    assert len(listing.clips) == 1


def test_names_in_two_folders_are_two_clips_or_a_question(audio: Path) -> None:
    """The label of one would sit on the other."""
    text = "filename\tevent_labels\n12.wav\tCat\nother/12.wav\tSpeech\n"
    (audio / "other").mkdir()
    (audio / "12.wav").rename(audio / "other" / "12.wav")
    soundfile.write(audio / "12.wav", np.zeros(16000), 16000)
    clips = listed(audio, text).clips
    assert [(c.clip_id, c.labels) for c in clips] == [("12", (1,)), ("other/12", (2,))]
    (audio / "12.wav").rename(audio / "weak" / "12.wav")
    with pytest.raises(ShardError, match="line 2: .*12.wav and .*12.wav are both"):
        listed(audio, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no clips"),
        ("filename\tevent_labels\n", "no clips"),
        (
            "file\tevent_labels\nb.wav\tCat\n",
            "line 1: found columns file, event_labels",
        ),
        ("filename,event_labels\nb.wav,Cat\n", "line 1: found columns"),
        ("filename\tevent_labels\n\tCat\n", "line 2: expected 2 columns"),
        ("filename\tevent_labels\nb.wav\tCat\tx\n", "line 2: expected 2 columns"),
        ("filename\tevent_labels\nb.wav\tDog\n", "line 2: label 'Dog' is not in"),
        ("filename\tevent_labels\nb.wav\n", "line 2: expected 2 columns"),
        (STRONG + "12.wav\t0\t1\n", "line 6: expected 4 columns"),
        (STRONG + "\n\n12.wav\t0\t1\n", "line 8: expected 4 columns"),
        (STRONG + "12.wav\t1\t0\tCat\n", "line 6: 'Cat' from '1' to '0'; expected"),
        (STRONG + "12.wav\t-1\t0\tCat\n", "line 6: 'Cat' from '-1' to '0'"),
        (STRONG + "12.wav\tnan\t1\tCat\n", "line 6: 'Cat' from 'nan' to '1'"),
        (STRONG + "12.wav\t0\tinf\tCat\n", "line 6: 'Cat' from '0' to 'inf'"),
        (STRONG + "12.wav\t0\t1\t\n", "line 6: '' from '0' to '1'; expected a class"),
        (STRONG + "12.wav\t\t\tCat\n", "line 6: 'Cat' from '' to ''"),
    ],
)
def test_a_bad_list_is_refused_by_line(audio: Path, text: str, message: str) -> None:
    """A traceback, or clips without their labels, would be the other outcomes."""
    with pytest.raises(ShardError, match=f"0.tsv: {message}"):
        listed(audio, text)


def test_a_list_in_another_encoding_says_what_to_do(audio: Path) -> None:
    """Excel's Unicode text is UTF-16; the message would be Python's."""
    path = audio.parent / "list.tsv"
    path.write_bytes(WEAK.encode("utf-16"))
    with pytest.raises(ShardError, match="list.tsv: .*save it as text in UTF-8"):
        desed.list_clips(audio, [str(path)], LabelReader(CLASSES))


def test_a_damaged_list_is_refused_or_read(audio: Path) -> None:
    """A list from anyone would end in a traceback."""

    def case(rng: random.Random) -> None:
        path = audio.parent / "damaged.tsv"
        path.write_bytes(mutated(rng, STRONG.encode(), block=16))
        desed.list_clips(audio, [str(path)], LabelReader(CLASSES))

    fuzz("DESED", 300, case)


def test_the_command_packs_them(audio: Path, tmp_path: Path) -> None:
    """And asks for one list of clips, not two."""
    (tmp_path / "weak.tsv").write_text(WEAK)
    (tmp_path / "classes.csv").write_text(CLASSES.to_csv())
    words = ["--audio", str(audio), "--class-labels", str(tmp_path / "classes.csv")]
    words += ["--out", str(tmp_path / "out"), "--workers", "1"]
    words += ["--desed", str(tmp_path / "weak.tsv")]
    pack(words)
    assert (tmp_path / "out" / "index.json").exists()
    with pytest.raises(ValueError, match="--audio needs one of --segments"):
        pack([*words, "--unlabelled"])
