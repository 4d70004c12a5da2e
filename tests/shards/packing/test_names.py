"""File names of all kinds find their clip, or are listed with what is wrong."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from shards import pack
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.schema import make_key
from shards.format.weak_labels import LabelReader
from shards.packing.sources import folder
from shards.packing.sources.listing import Listing
from tests.conftest import write_source

READER = LabelReader(Classes(("cat", "dog"), ("Cat", "Dog")))


def touch(root: Path, *names: str) -> Path:
    """Empty files; listing does not open them."""
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(root: Path, rows: str) -> Listing:
    (root / "segments.csv").write_text(rows)
    return folder.list_clips(root, root / "segments.csv", READER)


def found(listing: Listing, root: Path) -> dict[str, str]:
    """The file of each clip, by id."""
    return {
        clip.clip_id: os.path.relpath(clip.place[0], root) for clip in listing.clips
    }


CLASS_FOLDERS = ("cat/1.wav", "cat/2.wav", "dog/1.wav", "dog/2.wav")


def test_an_id_may_hold_the_folder(tmp_path: Path) -> None:
    """Else sounds numbered in each class folder must all be renamed."""
    touch(tmp_path, *CLASS_FOLDERS)
    listing = listed(tmp_path, "cat/1,0,10,cat\ndog/1,0,10,dog\ndog/2.wav,0,10,dog\n")
    assert found(listing, tmp_path) == {
        "cat/1": "cat/1.wav",
        "dog/1": "dog/1.wav",
        "dog/2.wav": "dog/2.wav",
    }
    assert [clip.key for clip in listing.clips][:2] == ["cat=2F1_0", "dog=2F1_0"]


def test_files_of_one_name_are_told_apart_by_the_folder_of_their_label(
    tmp_path: Path,
) -> None:
    """Else a list of bare names of class folders is two rows for one clip."""
    touch(tmp_path, *CLASS_FOLDERS)
    listing = listed(tmp_path, "1,0,10,cat\n2,0,10,Cat\n1,0,10,dog\n2,0,10,dog\n")
    assert {clip.clip_id: clip.labels for clip in listing.clips} == {
        "cat/1": (0,),
        "cat/2": (0,),
        "dog/1": (1,),
        "dog/2": (1,),
    }


def test_files_of_one_name_are_named_where_nothing_tells_them_apart(
    tmp_path: Path,
) -> None:
    """Else the message speaks of a key, and not of what to rename."""
    touch(tmp_path, "a/1.wav", "b/1.wav")
    with pytest.raises(ShardError, match=r"line 1: .*a/1\.wav and .*b/1\.wav.*a/1$"):
        listed(tmp_path, "1,0,10,dog\n")


def test_unlabelled_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    """Else a folder of folders cannot be packed for a teacher to label."""
    touch(tmp_path, *CLASS_FOLDERS, "rex.wav")
    listing = folder.list_unlabelled(tmp_path, READER)
    ids = [clip.clip_id for clip in listing.clips]
    assert ids == ["cat/1", "cat/2", "dog/1", "dog/2", "rex"]


def test_unlabelled_files_of_different_names_do_not_hold_their_folders(
    tmp_path: Path,
) -> None:
    """Else keys of what was packed before change, and stored labels no longer fit."""
    touch(tmp_path, "x/a.wav", "y/b.wav")
    listing = folder.list_unlabelled(tmp_path, READER)
    assert [clip.key for clip in listing.clips] == ["a_0", "b_0"]


@pytest.mark.parametrize("clip_id", ["1-137-A-32.wav", "LOUD.WAV", "sub/a.flac"])
def test_an_id_may_have_the_suffix_of_its_file(clip_id: str, tmp_path: Path) -> None:
    """Else lists of ESC-50 and UrbanSound8K find not one of their files."""
    touch(tmp_path, clip_id, "1-137-A-32.mp3")
    assert found(listed(tmp_path, f"{clip_id},0,5,dog\n"), tmp_path) == {
        clip_id: clip_id
    }


@pytest.mark.parametrize("other", ["a.wav", "./a", "./a.wav"])
def test_two_ids_of_one_file_are_refused(other: str, tmp_path: Path) -> None:
    """Else a sound is packed twice, each time with half of its labels."""
    touch(tmp_path, "a.wav")
    with pytest.raises(ShardError, match=r"line 2: .* and 'a' \(line 1\) are both"):
        listed(tmp_path, f"a,0,10,dog\n{other},0,10,cat\n")


HIDDEN = (
    *("._rex.wav", ".rex.wav", "__MACOSX/rex.wav", ".Trash-1000/files/old.wav"),
    *("a/.ipynb_checkpoints/rex-checkpoint.wav", "Thumbs.db", "a/.DS_Store"),
)


def test_hidden_files_and_those_of_macos_are_passed_over(tmp_path: Path) -> None:
    """Else a disk that was once in a Mac has a broken clip for each good one."""
    touch(tmp_path, *HIDDEN, "rex.wav", "a/pip.wav")
    listing = folder.list_unlabelled(tmp_path, READER)
    assert [clip.clip_id for clip in listing.clips] == ["pip", "rex"]
    assert listing.rejected == []


def test_a_hidden_folder_may_be_the_one_that_is_named(tmp_path: Path) -> None:
    """Else audio in ~/.cache cannot be packed."""
    touch(tmp_path / ".cache", "rex.wav")
    assert len(folder.list_unlabelled(tmp_path / ".cache", READER).clips) == 1


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_a_name_is_found_in_either_unicode_form(on_disk: str, tmp_path: Path) -> None:
    """Else a name that went through macOS looks the same, and is missing."""
    forms = {"NFC": "NFD", "NFD": "NFC"}
    name = unicodedata.normalize(on_disk, "Café")  # type: ignore[arg-type]
    other = unicodedata.normalize(forms[on_disk], "Café")  # type: ignore[arg-type]
    touch(tmp_path, f"{name}.wav", f"{name}/{name}2.wav")
    listing = listed(tmp_path, f"{other},0,5,dog\n{other}/{other}2,0,5,dog\n")
    assert found(listing, tmp_path) == {
        other: f"{name}.wav",
        f"{other}/{other}2": f"{name}/{name}2.wav",
    }


def test_of_two_unicode_forms_the_exact_one_is_taken(tmp_path: Path) -> None:
    """Else a file is found twice that is there once."""
    composed, apart = "é", "e\u0301"
    touch(tmp_path, f"{composed}.wav", f"{apart}.wav")
    assert found(listed(tmp_path, f"{apart},0,5,dog\n"), tmp_path) == {
        apart: f"{apart}.wav"
    }


def test_a_long_id_gets_a_key_of_its_own() -> None:
    """Else descriptive names, and names in Chinese or Hindi, refuse a whole pack."""
    ids = [
        "x" * 200,
        "x" * 199,
        "録音" * 6,
        "録音" * 6 + "い",
        "x" * 88 + ".",
        "x" * 89,
    ]
    keys = [make_key(clip_id, 30.0) for clip_id in ids]
    assert len(set(keys)) == len(ids)
    assert all(len(key) <= 90 and key.endswith("_30000") for key in keys)
    assert keys[0].startswith("xxx") and "==" in keys[0]


def test_keys_that_fit_are_as_they_were() -> None:
    """Else labels stored for a packed data set no longer join."""
    assert make_key("x" * 88, 0.0) == "x" * 88 + "_0"
    assert make_key("é" * 14 + "abcd", 0.0) == "=C3=A9" * 14 + "abcd_0"


def test_a_long_name_is_packed_with_its_whole_id(tmp_path: Path) -> None:
    """Else the id of a clip is lost, which its metadata are found by."""
    source = write_source(tmp_path / "source", num_clips=2, seconds=0.1)
    name = "Heavy rain on the roof of a tent at night, with distant thunder (take 2)"
    (source.audio / "clip1.wav").rename(source.audio / f"{name}.wav")
    os.rename(source.audio / "clip0.wav", os.fsencode(source.audio) + b"/caf\xe9.wav")
    words = ["--audio", str(source.audio), "--unlabelled", "--workers", "1"]
    words += ["--class-labels", str(source.class_labels), "--out", str(tmp_path / "o")]
    with pytest.raises(ShardError, match=r"1 of 2 clips .* caf\\xe9.wav: .*not UTF-8"):
        pack.main(words)
    pack.main([*words, "--max-rejected", "0.5"])
    index = open_index(tmp_path / "o", kind="audio")
    assert [index.key(row) for row in range(len(index))] == [make_key(name, 0.0)]
    assert name.encode() in (tmp_path / "o" / "000000.tar").read_bytes()
    report = (tmp_path / "o" / "pack_report.csv").read_text()
    assert report.splitlines()[1].startswith("caf\\xe9.wav,rejected,")


def test_a_folder_whose_name_is_not_utf8_hides_no_error(tmp_path: Path) -> None:
    """Else one broken file in it ends a packing with an error about surrogates."""
    source = write_source(tmp_path / "source", num_clips=2, seconds=0.1)
    below = os.fsencode(source.audio) + b"/caf\xe9"
    os.mkdir(below)
    os.unlink(source.audio / "clip0.wav")
    with open(below + b"/clip0.wav", "wb"):
        pass
    pack.main([*source.pack_arguments(tmp_path / "o"), "--max-rejected", "0.5"])
    report = (tmp_path / "o" / "pack_report.csv").read_text().splitlines()
    assert report[1].startswith("clip0_0,rejected,")
    expected = "caf\\udce9/clip0.wav: empty file; copy or fetch it again"
    assert report[1].endswith(expected)
