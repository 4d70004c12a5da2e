"""Tars of others by pattern and URL; and nothing in a name or a member is run."""

from __future__ import annotations

import functools
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import webdataset

import shards
from shards import pack
from shards.adopt import adopt
from shards.errors import ShardError
from shards.format.classes import read_classes
from shards.remote.places import RetryPolicy
from shards.remote.tars import common_home, expand_braces, local_places
from shards.system.exits import JobError
from tests.conftest import Source, write_source
from tests.shards.packing.test_sources import add, tar_bytes, words_for, write_tars

FIELD = "original.tag"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_source(tmp_path_factory.mktemp("plain"), num_clips=24)


@pytest.fixture(scope="module")
def tars(plain: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """part-0.tar to part-2.tar; not to be changed."""
    return write_tars(plain, tmp_path_factory.mktemp("tars"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def server(tars: Path) -> Iterator[ThreadingHTTPServer]:
    """Serves ``tars``; ``requested`` are the paths asked for so far."""
    handler = functools.partial(_Quiet, directory=str(tars))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.requested = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield http
        http.shutdown()


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


# Patterns


def test_braces_expand_as_in_bash() -> None:
    """Else the pattern that a dataset's page gives names other tars. From bash 5.2."""
    expected = {
        "x-{000..002}.tar": ["x-000.tar", "x-001.tar", "x-002.tar"],
        "{8..10}.tar": ["8.tar", "9.tar", "10.tar"],
        "{train,eval}-{0..1}.tar": [
            "train-0.tar",
            "train-1.tar",
            "eval-0.tar",
            "eval-1.tar",
        ],
        "s3://b/{a,b{1,2}}.tar": ["s3://b/a.tar", "s3://b/b1.tar", "s3://b/b2.tar"],
        "plain.tar": ["plain.tar"],
        "{one}.tar": ["{one}.tar"],
    }
    for pattern, places in expected.items():
        assert expand_braces([pattern]) == places
    assert expand_braces(["a.tar", Path("{b,c}.tar")]) == ["a.tar", "b.tar", "c.tar"]


def test_a_file_whose_name_has_braces_is_itself(tmp_path: Path) -> None:
    """Else a folder that somebody named {a,b} cannot be packed."""
    (tmp_path / "{a,b}").mkdir()
    assert expand_braces([tmp_path / "{a,b}"]) == [str(tmp_path / "{a,b}")]


@pytest.mark.parametrize(
    "pattern, problem",
    [
        ("x-{0..9.tar", "[Uu]nbalanced"),
        ("x-{0..99999999999}.tar", "more than 1000000 places"),
        ("{0..999}{0..999}{0..999}.tar", "more than 1000000 places"),
    ],
)
def test_a_pattern_that_is_wrong_or_endless_is_refused(
    pattern: str, problem: str
) -> None:
    """Else a slip of the finger fills the memory, or names a file with a brace."""
    with pytest.raises(ShardError, match=problem):
        expand_braces([pattern])


def test_packing_a_pattern_gives_the_same_shards(
    plain: Source, tars: Path, dataset: Path, tmp_path: Path
) -> None:
    """Else the tars have to be listed by hand."""
    words = words_for(plain, tmp_path / "out")
    pattern = str(tars / "part-{0..2}.tar")
    pack.main(["--webdataset", pattern, "--label-field", FIELD, *words])
    assert tar_bytes(tmp_path / "out") == tar_bytes(dataset)


# URLs


def test_packing_tars_at_a_url_gives_the_same_shards_and_fetches_them_once(
    plain: Source, dataset: Path, tmp_path: Path, server: ThreadingHTTPServer
) -> None:
    """Else people download terabytes by hand, or again with every try."""
    pattern = f"{url_of(server)}/part-{{0..2}}.tar"
    kept = tmp_path / "downloads"
    for out in ("one", "two"):
        words = words_for(plain, tmp_path / out)
        pack.main(
            [
                *("--webdataset", pattern, "--label-field", FIELD),
                *("--downloads", str(kept), *words),
            ]
        )
        assert tar_bytes(tmp_path / out) == tar_bytes(dataset)
    requested = server.requested  # type: ignore[attr-defined]
    assert sorted(requested) == ["/part-0.tar", "/part-1.tar", "/part-2.tar"]
    host = url_of(server).removeprefix("http://")
    assert sorted(p.name for p in (kept / host).iterdir()) == [
        f"part-{number}.tar" for number in range(3)
    ]


def test_adopted_tars_at_a_url_are_read_from_there(
    plain: Source,
    dataset: Path,
    tmp_path: Path,
    server: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else an index of remote tars points to copies that are gone tomorrow."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    classes = read_classes(plain.class_labels)
    pattern = f"{url_of(server)}/part-{{0..2}}.tar"
    kept = tmp_path / "downloads"
    with pytest.raises(ShardError, match="name a folder for the index .* --out"):
        adopt(pattern, classes=classes, label_field=FIELD, downloads=kept)
    summary = adopt(
        pattern,
        classes=classes,
        out=tmp_path / "index",
        label_field=FIELD,
        downloads=kept,
    )
    assert "adopted 24 clips in 3 tars" in summary
    for path in kept.rglob("*.tar"):
        path.unlink()
    clips, packed = (
        shards.open_dataset(tmp_path / "index"),
        shards.open_dataset(dataset),
    )
    assert clips.index.places[0] == f"{url_of(server)}/part-0.tar"
    np.testing.assert_array_equal(clips.pcm("clip5_0"), packed.pcm("clip5_0"))
    assert clips["clip5_0"].labels == packed["clip5_0"].labels


def test_tars_of_object_stores_are_kept_by_bucket_and_path(tmp_path: Path) -> None:
    """Else train/000.tar and eval/000.tar are one file."""
    memory = fsspec.filesystem("memory")
    for part in ("train", "eval"):
        memory.pipe(f"/bucket/{part}/000.tar", part.encode())
    found = local_places(["memory://bucket/{train,eval}/000.tar"], tmp_path)
    assert found == [
        tmp_path / "bucket" / part / "000.tar" for part in ("train", "eval")
    ]
    assert [path.read_bytes() for path in found] == [b"train", b"eval"]


def test_a_tar_that_is_not_there_leaves_nothing_and_says_where(
    tmp_path: Path, server: ThreadingHTTPServer
) -> None:
    """Else an error page is packed as a tar."""
    url = url_of(server)
    with pytest.raises(ShardError, match="part-7.tar: not found"):
        local_places([f"{url}/part-7.tar"], tmp_path)
    with pytest.raises(ShardError, match="name a folder .* --downloads"):
        local_places([f"{url}/part-0.tar"], None)
    quick = RetryPolicy(attempts=1, first_delay_seconds=0.01)
    with pytest.raises(JobError, match="gave up"):
        local_places(["http://127.0.0.1:1/a.tar"], tmp_path, retry=quick)
    for place in (f"{url}/folder", f"{url}/a/../b.tar", f"{url}/a%2F..%2Fb.tar"):
        with pytest.raises(ShardError, match=r"expected the URL of a \.tar"):
            local_places([place], tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_tars_of_several_folders_are_not_adopted_as_one(tmp_path: Path) -> None:
    """Else the index looks for them all in one folder."""
    assert common_home(["s3://b/train/{0..9}.tar"]) == "s3://b/train"
    assert common_home([tmp_path]) == str(tmp_path)
    with pytest.raises(ShardError, match="of several folders"):
        common_home(["s3://b/{train,eval}/0.tar"])


# Nothing is run


class Touch:
    """A pickle of this makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def write_hostile_tar(plain: Source, folder: Path, canary: Path) -> Path:
    """A good clip with members that webdataset's decoders would unpickle."""
    folder.mkdir()
    payload = pickle.dumps(Touch(canary))
    weights = io.BytesIO()
    torch.save(Touch(canary), weights)
    with tarfile.open(folder / "hostile-0.tar", "w") as tar:
        add(tar, "clip0.wav", (plain.audio / "clip0.wav").read_bytes())
        add(tar, "clip0.json", b'{"original": {"tag": ["Tone low"]}}')
        for suffix in ("pyd", "pickle", "pkl", "p"):
            add(tar, f"clip0.{suffix}", payload)
        for suffix in ("pth", "pt"):
            add(tar, f"clip0.{suffix}", weights.getvalue())
    return folder


def test_pickles_in_a_tar_are_never_loaded(plain: Source, tmp_path: Path) -> None:
    """Else a downloaded tar runs what it likes."""
    canary = tmp_path / "canary"
    folder = write_hostile_tar(plain, tmp_path / "tars", canary)
    classes = read_classes(plain.class_labels)
    words = words_for(plain, tmp_path / "packed")
    pack.main(["--webdataset", str(folder), "--label-field", FIELD, *words])
    adopt(folder, classes=classes, out=tmp_path / "index", label_field=FIELD)
    for name in ("packed", "index"):
        clips = shards.open_dataset(tmp_path / name)
        assert [clip.key for clip in clips] == ["clip0_0"]
        assert len(clips.waveform(0)) == 32000
        pipeline = shards.as_webdataset(
            tmp_path / name, chunk_seconds=1, global_batch_size=1
        )
        assert len(list(pipeline)) == 2
    assert not canary.exists()
    # the canary sings: what is in the tar does run where it is unpickled
    with tarfile.open(folder / "hostile-0.tar") as tar:
        member = tar.extractfile("clip0.pyd")
        assert member is not None
        pickle.loads(member.read())
    assert canary.exists()


def test_shell_pipes_and_rewritten_urls_are_never_reached(
    plain: Source, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the name of a tar, or a variable of the environment, is a command."""
    canary = tmp_path / "canary"
    command = f"pipe:touch {canary}; cat {tars}/part-0.tar"
    monkeypatch.setenv("GOPEN_REWRITE", f"{tars}=pipe:touch {canary};http=pipe:touch x")
    monkeypatch.setenv("GOPEN_VERBOSE", "1")
    classes = read_classes(plain.class_labels)
    for place in (
        command,
        f"{command}; echo http://x/y.tar",
        f"{command} {{0..1}}.tar",
        f"pipe:curl http://x/y.tar > {canary}",
        f"|touch {canary}",
        f"$(touch {canary}).tar",
    ):
        words = words_for(plain, tmp_path / "out")
        options = ["--downloads", str(tmp_path / "kept")]
        with pytest.raises(ShardError):
            pack.main(["--webdataset", place, *options, *words])
        with pytest.raises(ShardError):
            adopt(place, classes=classes, out=tmp_path / "o", downloads=tmp_path / "k")
        with pytest.raises(ShardError):
            shards.open_dataset(place)
        with pytest.raises(ShardError):
            shards.as_webdataset(place)
    adopt(tars, classes=classes, out=tmp_path / "index", label_field=FIELD)
    pipeline = shards.as_webdataset(
        tmp_path / "index", chunk_seconds=2, global_batch_size=24
    )
    assert len(list(pipeline)) == 24
    assert not canary.exists()
    # the canary sings: webdataset itself does run it
    list(webdataset.WebDataset(command, shardshuffle=False))
    assert canary.exists()
