"""Segments CSVs as people write them: every row counts, or is refused by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.weak_labels import LabelReader
from shards.packing.segments import read_segments
from shards.packing.sources import folder
from shards.packing.sources.folder import FilesAre

READER = LabelReader(Classes(("/m/a", "/m/b"), ("Dog", "Cat")))
AUDIOSET = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=1, num_segs=1, num_unique_labels=1, num_positive_labels=1\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def read(path: Path, text: str) -> list[tuple[str, float, float, tuple[int, ...]]]:
    path = path / "segments.csv"
    path.write_text(text)
    found = read_segments(path, READER)
    return [(s.clip_id, s.start_seconds, s.end_seconds, s.labels) for s in found]


ONE_ROW = [("a", 0.0, 10.0, (0,))]


@pytest.mark.parametrize(
    "text",
    [
        AUDIOSET + 'a, 0.000, 10.000, "/m/a"\n',
        "id,start_seconds,end_seconds,labels\na,0,10,Dog\n",
        "filename,onset,offset,event_label\na,0,10,Dog\n",
        "YTID, start_seconds, end_seconds, positive_labels\na, 0, 10, /m/a\n",
        "\ufeffa,0,10,/m/a\r\n",
        "# my sounds\n\n  \na,0,10,/m/a\n,,,\n",
    ],
)
def test_headers_comments_and_blank_lines_are_no_rows(
    text: str, tmp_path: Path
) -> None:
    """Else what spreadsheets and AudioSet write around rows has to be removed."""
    assert read(tmp_path, text) == ONE_ROW


@pytest.mark.parametrize("name", ["#1 kick", "# 1 kick", "#", "##x"])
def test_a_row_whose_id_begins_with_a_hash_is_no_comment(
    name: str, tmp_path: Path
) -> None:
    """Else a sound vanishes, and no report says so."""
    text = f"{AUDIOSET}{name},0,10,/m/a\nb,0,10,/m/b\n"
    assert read(tmp_path, text) == [
        (name, 0.0, 10.0, (0,)),
        ("b", 0.0, 10.0, (1,)),
    ]


def test_two_of_audiosets_lists_may_be_joined_into_one(tmp_path: Path) -> None:
    """Else `cat balanced.csv unbalanced.csv` makes a list that is refused."""
    text = AUDIOSET + "a,0,10,/m/a\n" + AUDIOSET + "b,0,10,/m/b\n"
    assert [row[0] for row in read(tmp_path, text)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#1 kick, 0, 10\n", ("line 1", "#1 kick", "if it is a comment")),
        ("a,0,10,/m/a\n# note\n", ("line 2", "# note", "if it is a comment")),
        ("a;0;10;/m/a\n", ("line 1", "semicolons")),
        ("a\t0\t10\t/m/a,/m/b\n", ("line 1", "tabs")),
        ("a,0,10,/m/a,/m/b\n", ("line 1", "quotes around several labels")),
        ("a,0,10,/m/a\na,0,12,/m/b\n", ("line 2", "12.0 s", "10.0 s in line 1")),
        ("a,0,10,/m/a\na,0,10,/m/a\n", ("line 2", "duplicate of line 1", "keep one")),
        ("a,0,10,/m/a\na,0,10,/m/b\na,0,10,/m/a\n", ("line 3", "of line 1")),
        ("a,0,1e9,/m/a\n", ("line 1", "0 <= start < end")),
        ("label,id,start,end\na,0,10,/m/a\n", ("line 1", "expected id, start_seconds")),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_line(
    text: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """Else a row is lost, or its error has to be searched for in two million lines."""
    with pytest.raises(ShardError) as caught:
        read(tmp_path, text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_one_row_for_each_label_gives_one_clip_with_all(tmp_path: Path) -> None:
    """Else whoever keeps one row, as an error used to say, loses a label."""
    text = "b,0,10,Cat\na,0,10,Cat\na,0,10,Dog\na,5,10,Dog\n"
    assert read(tmp_path, text) == [
        ("b", 0.0, 10.0, (1,)),
        ("a", 0.0, 10.0, (0, 1)),
        ("a", 5.0, 10.0, (0,)),
    ]


# Where a segment lies in a short recording


def load_one(
    tmp_path: Path, name: str, seconds: float, row: str, files_are: FilesAre | None
) -> np.ndarray:
    """The samples of the only row; the file's sample n has the value n // 10."""
    (tmp_path / "wavs").mkdir()
    ramp = (np.arange(round(seconds * 16000)) // 10).astype(np.int16)
    soundfile.write(tmp_path / "wavs" / name, ramp, 16000)
    (tmp_path / "s.csv").write_text(row)
    listing = folder.list_clips(
        tmp_path / "wavs", tmp_path / "s.csv", READER, files_are=files_are
    )
    (clip,) = listing.clips
    return listing.load(clip, 16000)


@pytest.mark.parametrize(
    ("name", "seconds", "row", "files_are", "first_second"),
    [
        ("a.wav", 5.5, "a,0,5,Dog", None, 0),
        ("a.wav", 9.0, "a,2,6,Dog", None, 2),  # too long for the segment alone
        ("a.wav", 4.0, "a,30,34,Dog", None, 0),  # too short to be the recording
        ("a.wav", 5.5, "a,1,5.5,Dog", "recordings", 1),
        ("a.wav", 5.5, "a,1,5.5,Dog", "segments", 0),
        ("a.wav", 3.0, "a,2,12,Dog", "recordings", 2),  # ends in its segment
        ("a.wav", 3.0, "a,2,12,Dog", "segments", 0),
        ("a_1.0_5.5.wav", 5.5, "a,1,5.5,Dog", None, 0),  # its name tells
        ("a_2.000_12.000.wav", 3.0, "a,2,12,Dog", None, 0),
    ],
)
def test_a_segment_begins_where_name_length_or_option_tell(
    tmp_path: Path,
    name: str,
    seconds: float,
    row: str,
    files_are: FilesAre | None,
    first_second: float,
) -> None:
    """Else a clip holds the sound of another part of its recording."""
    samples = load_one(tmp_path, name, seconds, row, files_are)
    assert samples[0] == first_second * 1600


@pytest.mark.parametrize(
    ("name", "seconds", "row", "files_are", "words"),
    [
        ("a.wav", 5.5, "a,1,5.5,Dog", None, "may be the segment"),
        ("a.wav", 9.5, "a,5,15,Dog", None, "--files-are segments or --files-are rec"),
        ("a.wav", 3.0, "a,2,12,Dog", None, "may be the segment"),
        ("a.wav", 4.9, "a,5,15,Dog", None, "may be the segment"),  # begins past its end
        ("a.wav", 4.9, "a,5,15,Dog", "recordings", "reaches 5.00 s"),
        ("a.wav", 9.0, "a,2,6,Dog", "segments", "longer than its segment"),
        ("a_5_15.wav", 13.0, "a,5,15,Dog", None, "longer than its segment"),
    ],
)
def test_a_file_that_may_be_segment_or_recording_is_refused(
    tmp_path: Path,
    name: str,
    seconds: float,
    row: str,
    files_are: FilesAre | None,
    words: str,
) -> None:
    """Else the sound is shifted by seconds, and no message says so."""
    with pytest.raises(ShardError, match="a.*wav: ") as caught:
        load_one(tmp_path, name, seconds, row, files_are)
    assert words in str(caught.value)
