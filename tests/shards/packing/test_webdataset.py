"""WebDataset tars as others make them: how members pair, and where labels are."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shards import adopt
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.weak_labels import LabelError, LabelReader
from shards.packing.sources import webdataset
from shards.packing.sources.listing import Listing

CLASSES = Classes(("/m/a", "/m/b"), ("Dog", "Cat"))
READER = LabelReader(CLASSES)
CAT = json.dumps({"labels": ["Cat"]}).encode()
Members = dict[str, bytes]


def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.arange(1600, dtype=np.int16), 16000, format="WAV")
    return buffer.getvalue()


def write_tar(path: Path, members: Members | list[tuple[str | bytes, bytes]]) -> Path:
    """A tar of members; names given as bytes are stored as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs: Any = members.items() if isinstance(members, dict) else members
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in pairs:
            text = (
                name.decode("utf-8", "surrogateescape") if type(name) is bytes else name
            )
            info = tarfile.TarInfo(text)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def listed(
    path: Path, members: Any, field: str = "labels", reader: LabelReader = READER
) -> Listing:
    tar = write_tar(path / "0.tar", members)
    return webdataset.list_clips([tar], reader, label_field=field)


def labels_of(listing: Listing) -> dict[str, tuple[int, ...]]:
    return {clip.clip_id: clip.labels for clip in listing.clips}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"000.audio.wav": b"", "000.meta.json": CAT}, {"000": (1,)}),
        ({"000.wav": b"", "000.meta.json": CAT}, {"000": (1,)}),
        ({"000.audio.wav": b"", "000.json": CAT}, {"000": (1,)}),
        ({"000.audio.wav": b"", "000.audio.json": CAT}, {"000.audio": (1,)}),
        ({"a/x.48k.flac": b"", "a/x.info.json": CAT}, {"x": (1,)}),
        (
            {"abcdefghijk_30.5_40.5.flac": b"", "abcdefghijk_30.5_40.5.json": CAT},
            {"abcdefghijk": (1,)},
        ),
        (
            {
                "a_1.0_2.0.wav": b"",
                "a_1.5_2.5.wav": b"",
                "a_1.0_2.0.x.json": CAT,
                "a_1.5_2.5.x.json": CAT,
            },
            {"a": (1,)},
        ),
    ],
)
def test_members_pair_by_suffix_or_up_to_the_first_dot(
    members: Members, expected: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    """Else valid WebDataset is refused, or an id with dots is cut short."""
    listing = listed(tmp_path, members)
    assert labels_of(listing) == expected
    assert len(listing.clips) == len(members) / 2 and not listing.rejected


@pytest.mark.parametrize(
    ("field", "members", "expected"),
    [
        ("cls", {"0.wav": b"", "0.cls": b"1"}, (1,)),
        ("cls", {"0.wav": b"", "0.cls": b"1\n", "0.json": b"{}"}, (1,)),
        ("cls", {"0.audio.wav": b"", "0.label.cls": b"0"}, (0,)),
        ("txt", {"0.wav": b"", "0.txt": b"Dog; Cat\n"}, (0, 1)),
        ("txt", {"0.wav": b"", "0.txt": b"\xef\xbb\xbfDog\r\nCat\r\n"}, (0, 1)),
        ("cls", {"0.wav": b"", "0.json": b'{"cls": 0}', "0.cls": b"1"}, (0,)),
        ("a.b", {"0.wav": b"", "0.json": b'{"a": {"b": "Cat"}}'}, (1,)),
        ("", {"0.wav": b"", "0.json": b"not JSON", "x.json": b""}, ()),
        ("labels", {"0.wav": b"", "0.a.json": b"{}", "0.b.json": CAT}, (1,)),
    ],
)
def test_labels_are_read_from_json_cls_and_txt(
    field: str, members: Members, expected: tuple[int, ...], tmp_path: Path
) -> None:
    """Else tars that hold class numbers must be written again with JSON."""
    listing = listed(tmp_path, members, field)
    assert [clip.labels for clip in listing.clips] == [expected]
    assert not listing.rejected


@pytest.mark.parametrize(
    "text",
    [
        b'{"labels": ["Cat"], "similarity": NaN}',
        b'{"labels": ["Cat"], "x": -Infinity, "y": 1e999}',
        b'{"labels": ["Cat"], "caption": "\\ud83d"}',
        b'{"x": 1, "x": 2, "labels": ["Cat"]}',
        b'\xef\xbb\xbf{"labels": "Cat"}',
        b'{"labels": ["Cat"], "deep": ' + b"[" * 50 + b"]" * 50 + b"}",
    ],
)
def test_only_the_field_with_the_labels_matters(text: bytes, tmp_path: Path) -> None:
    """Else one odd number of a field that nobody reads refuses a whole set."""
    assert labels_of(listed(tmp_path, {"0.wav": b"", "0.json": text})) == {"0": (1,)}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.json": b'{"labels": NaN}'}, "label nan"),
        ({"1.json": b'{"labels": {"a": 1}}'}, "label {'a': 1}"),
        ({"1.json": b'{"labels": [null]}'}, "label None"),
        ({"1.json": b'{"labels": 1, "labels": 0}'}, "duplicate field 'labels'"),
        ({"1.json": b"{"}, "not JSON"),
        ({"1.json": b"\xff"}, "not UTF-8"),
        ({"1.json": b"[" * 100_000}, "not JSON"),
        ({"1.json": b"1" * 5000}, "not JSON"),
        ({"1.json": b"[]"}, "no field 'labels'"),
        ({"1.json": b'{"tag": "Cat"}'}, "found: 'tag'"),
        ({"1.json": b" " * (1 << 20) + b" "}, "1048577 bytes refused"),
        ({"1.cls": b"1"}, "no JSON member for its labels (found: 1.cls)"),
        ({}, "no JSON member for its labels (found: no other member)"),
        (
            {"1.a.json": b'{"labels": "Dog"}', "1.b.json": CAT},
            "1.a.json and 1.b.json have different labels",
        ),
    ],
)
def test_a_description_that_cannot_be_used_rejects_its_clip_alone(
    members: Members, words: str, tmp_path: Path
) -> None:
    """Else one of two million refuses all, and no option helps."""
    good = {"0.wav": b"", "0.json": CAT, "1.wav": b""}
    listing = listed(tmp_path, {**good, **members})
    assert labels_of(listing) == {"0": (1,)}
    ((key, status, reason),) = listing.rejected
    assert (key, status) == ("1_0", "rejected")
    assert reason.startswith(f"{tmp_path / '0.tar'}: 1.wav: ") and words in reason


def test_the_same_member_with_two_contents_rejects_its_clip(tmp_path: Path) -> None:
    """Else `tar --append` decides which labels a clip has."""
    members = [("1.wav", b""), ("1.json", CAT), ("1.json", b'{"labels": "Dog"}')]
    assert "different labels" in listed(tmp_path, members).rejected[0][2]


@pytest.mark.parametrize("value", [b'{"labels": "Bird"}', b'{"labels": [0, 1]}'])
def test_labels_of_another_list_or_with_two_readings_refuse_the_set(
    value: bytes, tmp_path: Path
) -> None:
    """Else --max-rejected hides that all labels are read in a wrong way."""
    members = {"0.wav": b"", "0.json": CAT, "1.wav": b"", "1.json": value}
    with pytest.raises(LabelError, match=r"0\.tar: 1\.wav: label"):
        listed(tmp_path, members)


def test_a_json_member_without_audio_is_listed(tmp_path: Path) -> None:
    """Else clips of a suffix we do not know vanish, or refuse all others."""
    members = {"0.wav": b"", "0.json": CAT, "1.pcm": b"", "1.json": CAT, "2.txt": b""}
    listing = listed(tmp_path, members)
    assert [line[0] for line in listing.rejected] == ["1_0"]
    assert "1.json has no audio member; known suffixes" in listing.rejected[0][2]


def test_two_audio_members_of_one_sample_are_named(tmp_path: Path) -> None:
    """Else one of two microphones is taken, and nothing says which."""
    members = {"0.mic1.wav": b"", "0.mic2.wav": b"", "0.json": CAT}
    with pytest.raises(ShardError, match="0.mic1.wav and 0.mic2.wav are audio of one"):
        listed(tmp_path, members)


SIDE = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100)


def test_what_macos_adds_and_hidden_members_are_passed_over(tmp_path: Path) -> None:
    """Else a tar made on a Mac is refused for files that its maker never saw."""
    members = {
        "._0.wav": SIDE,
        "./0.wav": b"",
        "./._0.json": SIDE,
        "./0.json": CAT,
        "__MACOSX/._0.wav": SIDE,
        "a/.DS_Store": b"",
        ".git/1.json": b"",
    }
    listing = listed(tmp_path, members)
    assert labels_of(listing) == {"0": (1,)} and not listing.rejected
    (tmp_path / "._0.tar").write_bytes(SIDE)
    assert webdataset.find_tars([tmp_path]) == [tmp_path / "0.tar"]


def test_a_member_whose_name_is_not_utf8_is_listed(tmp_path: Path) -> None:
    """Else one name from an old zip refuses a tar of a thousand others."""
    names: tuple[str | bytes, ...] = (
        *("0.wav", "0.json", b"caf\xe9.wav", b"caf\xe9.json"),
        *("dog\\1.wav", "dog\\1.json", "a\u00a0b.wav"),
    )
    members = [(name, CAT) for name in names]
    listing = listed(tmp_path, members)
    assert labels_of(listing) == {"0": (1,)}
    rejected = [line[0] for line in listing.rejected]
    assert rejected == ["caf\\xe9.wav", "dog\\1.wav", "a\\xa0b.wav"]
    assert all("its name is not plain UTF-8" in line[2] for line in listing.rejected)


def test_ids_hold_the_folder_if_names_alone_are_not_unique(tmp_path: Path) -> None:
    """Else WebDataset whose keys are dog/1 and cat/1 must be written again."""
    one = write_tar(tmp_path / "0.tar", {"Dog/1.wav": b"", "Dog/1.json": CAT})
    two = write_tar(tmp_path / "1.tar", {"Cat/1.wav": b"", "Cat/1.json": CAT})
    listing = webdataset.list_clips([one, two], READER, label_field="labels")
    assert [clip.clip_id for clip in listing.clips] == ["Dog/1", "Cat/1"]
    alone = webdataset.list_clips([two], READER, label_field="labels")
    assert [clip.clip_id for clip in alone.clips] == ["1"]


def test_adopted_tars_have_the_same_ids_as_packed_ones(tmp_path: Path) -> None:
    """Else labels made for one do not fit the other."""
    for number, name in enumerate(("Dog", "Cat")):
        members = {f"{name}/1.wav": wav(), f"{name}/1.cls": str(number).encode()}
        write_tar(tmp_path / "tars" / f"{number}.tar", members)
    adopt.adopt(
        tmp_path / "tars", classes=CLASSES, out=tmp_path / "out", label_field="cls"
    )
    index = open_index(tmp_path / "out", kind="audio")
    assert [index.key(row) for row in range(2)] == ["Dog=2F1_0", "Cat=2F1_0"]
    assert index.table.label.tolist() == [0, 1]


def test_adopting_rejects_one_bad_description_and_says_which(tmp_path: Path) -> None:
    """Else a set of others cannot be used for one clip of it."""
    good = {f"{n}.wav": wav() for n in range(2)} | {"0.json": CAT}
    write_tar(tmp_path / "tars" / "0.tar", {**good, "1.json": b'{"labels": NaN}'})
    arguments: dict[str, Any] = {"classes": CLASSES, "out": tmp_path / "out"}
    with pytest.raises(ShardError, match=r"1 of 2 clips .*1\.wav: label nan"):
        adopt.adopt(tmp_path / "tars", **arguments)
    summary = adopt.adopt(
        tmp_path / "tars", **arguments, limits=adopt.Limits(max_rejected=0.5)
    )
    assert "adopted 1 clips in 1 tars, 1 rejected" in summary
