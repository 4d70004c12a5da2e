"""A dataset folder from elsewhere names only plain files in it, or is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shards.dataset.reader import MemberReader
from shards.dataset.tar import read_members
from shards.errors import ShardError
from shards.format.index import open_index
from shards.system.exits import exit_status

FILES = ("index.json", "clips.npz", "classes.csv", "000000.tar")


@pytest.fixture
def folder(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset that the test may break."""
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "zero", "link", "folder", "huge", "missing"])
def test_what_is_not_a_plain_file_of_the_folder_is_refused_at_once(
    folder: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """A command would read without end, hang, or read a file of the user's."""
    path = folder / name
    path.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with open(path, "wb") as stream:
            stream.truncate(1 << 42)  # sparse: 4 TB
    with pytest.raises(ShardError) as error:
        open_index(folder, kind="audio")
    assert str(path) in str(error.value) and exit_status(error.value) == 78


def test_links_within_a_dataset_are_followed(folder: Path) -> None:
    """Users link shards they have in a subfolder of it."""
    (folder / "tars").mkdir()
    (folder / "000000.tar").rename(folder / "tars" / "first.tar")
    (folder / "000000.tar").symlink_to("tars/first.tar")
    index = open_index(folder, kind="audio")
    assert len(MemberReader(index).samples(0, 0, 100)) == 100


def test_a_shard_that_becomes_a_link_or_pipe_after_the_opening_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    """The check at the start says nothing about a file that is opened hours later."""
    index = open_index(folder, kind="audio")
    path = folder / "000000.tar"
    path.rename(tmp_path / "elsewhere")
    os.mkfifo(path)
    with pytest.raises(ShardError, match="not a plain file"):
        MemberReader(index).samples(0, 0, 100)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ShardError, match="a link to .*elsewhere, expected a file"):
        MemberReader(index).samples(0, 0, 100)


def test_a_pipe_named_like_a_tar_hangs_no_reader(tmp_path: Path) -> None:
    """shards.adopt takes every tar of a folder."""
    os.mkfifo(tmp_path / "0.tar")
    with pytest.raises(ShardError, match="0.tar: not a plain file"):
        list(read_members(tmp_path / "0.tar"))
