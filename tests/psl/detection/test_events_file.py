"""Found events go back to the programs that wrote the true ones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psl import events, train
from psl.detection.events_file import file_name
from psl.evaluation.true_events import read_events
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.pack import main as pack
from tests.conftest import MIDS
from tests.learning import teacher_config

FILES = ("12.wav", "Y--0w1YA1Hm4_30.000_32.000.wav", "sub/12.wav")
CLASSES = Classes(MIDS, ("Tone low", "Tone mid", "Tone high"))
HEADER = "filename\tonset\toffset\tevent_label\n"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("12_0", "12.wav"),
        ("doorbell_01_0", "doorbell_01.wav"),
        ("--0w1YA1Hm4_30000", "Y--0w1YA1Hm4_30.000_40.000.wav"),
        ("own_2500", "own_2.500_12.500.wav"),
        ("sub=2F12_0", "sub/12.wav"),
        ("caf=C3=A9_0", "café.wav"),
        ("long==0123456789abcdef0123_0", "long==0123456789abcdef0123_0.wav"),
        ("odd", "odd.wav"),
    ],
)
def test_a_file_is_named_as_the_key_tells(key: str, name: str) -> None:
    """DESED's scorers match files by name: every event would be a false alarm."""
    assert file_name(key, 10.0) == name


@pytest.fixture
def desed(tmp_path: Path) -> Path:
    """A dataset of FILES, packed from a strong list: strong.tsv beside it."""
    rng = np.random.default_rng(0)
    for name in FILES:
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 32000), 16000)
    rows = [f"{f}\t0.0\t1.0\t{CLASSES.names[n]}\n" for n, f in enumerate(FILES)]
    (tmp_path / "strong.tsv").write_text(HEADER + "".join(rows))
    (tmp_path / "classes.csv").write_text(CLASSES.to_csv())
    words = ["--audio", str(tmp_path / "audio"), "--workers", "1"]
    words += ["--desed", str(tmp_path / "strong.tsv"), "--out", str(tmp_path / "data")]
    pack([*words, "--class-labels", str(tmp_path / "classes.csv")])
    return tmp_path / "data"


def test_events_of_files_of_one_name_stay_with_their_folder(desed: Path) -> None:
    """Both would be events of one clip, and the other be left out."""
    index = open_index(desed, kind="audio")
    found = read_events(desed.parent / "strong.tsv", index, max_left_out=0.0)
    assert found.covered.all() and len(found.row) == 3
    pairs = zip(found.row, found.label, strict=True)
    labels = {index.key(row): MIDS[c] for row, c in pairs}
    assert labels == {
        "12_0": MIDS[0],
        "--0w1YA1Hm4_30000": MIDS[1],
        "sub=2F12_0": MIDS[2],
    }


def test_events_of_a_file_that_was_not_packed_go_to_no_other_clip(desed: Path) -> None:
    """The truth of one recording would silently count for another."""
    index = open_index(desed, kind="audio")
    path = desed.parent / "more.tsv"
    more = f"other/12.wav\t0.5\t1.5\t{CLASSES.names[1]}\n"
    path.write_text((desed.parent / "strong.tsv").read_text() + more)
    with pytest.raises(
        ShardError, match="'12.wav' and 'other/12.wav' would both be clip '12_0' of"
    ):
        read_events(path, index, max_left_out=0.0)


@pytest.mark.parametrize("strong", [True, False])
def test_found_events_have_the_names_of_the_list_and_are_read_again(
    dataset: Path, desed: Path, strong: bool
) -> None:
    """The table could be scored by nobody, not even by this command."""
    train.main(teacher_config(desed.parent, dataset))
    out = desed.parent / "out"
    words = [
        f"checkpoint={desed.parent / 'run'}",
        f"audio={desed}",
        f"out={out}",
        "threshold=0",
    ]
    truth = [f"strong={desed.parent / 'strong.tsv'}"] if strong else []
    events.main([*words, "form=desed", *truth])
    with (out / "events.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert {row["filename"] for row in rows} == set(FILES)
    index = open_index(desed, kind="audio")
    again = read_events(out / "events.tsv", index, max_left_out=0.0)
    assert len(again.row) == len(rows) == 9 and again.covered.all()


def test_a_file_may_be_named_by_its_key(desed: Path) -> None:
    """Tables of earlier versions were written so."""
    path = desed.parent / "old.tsv"
    path.write_text(f"{HEADER}--0w1YA1Hm4_30000.wav\t0\t1\t{CLASSES.names[0]}\n")
    index = open_index(desed, kind="audio")
    found = read_events(path, index, max_left_out=0.0)
    assert [index.key(row) for row in found.row] == ["--0w1YA1Hm4_30000"]
