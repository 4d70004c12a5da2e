"""Files named by data from elsewhere: only plain files, only below their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.system.files import open_plain, read_bounded, read_plain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, and one beyond it that nobody may name."""
    (tmp_path / "home" / "sub").mkdir(parents=True)
    (tmp_path / "home" / "file").write_bytes(b"inside")
    (tmp_path / "home" / "sub" / "file").write_bytes(b"deeper")
    (tmp_path / "secret").write_bytes(b"outside")
    return tmp_path / "home"


def test_a_plain_file_is_read(folder: Path) -> None:
    """Everybody: what is right must be read, in the folder and below it."""
    assert read_plain(folder, "file", max_bytes=6) == b"inside"
    assert read_plain(folder, "sub/file", max_bytes=6) == b"deeper"


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "sub/../../secret", "", ".", "a\0b", "sub//"]
)
def test_a_name_that_leaves_its_folder_is_refused(folder: Path, name: str) -> None:
    """Users of folders from elsewhere, whose own files would be read."""
    with pytest.raises(ShardError, match="expected a file below this folder"):
        open_plain(folder, name)


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    """Users of an unpacked archive, which may hold links to their files."""
    (folder / "link").symlink_to("../secret")
    (folder / "away").symlink_to("..")
    for name in ("link", "away/secret"):
        with pytest.raises(ShardError, match="a link to .*/secret, expected a file"):
            open_plain(folder, name)


def test_links_within_the_folder_and_the_folder_itself_may_be_links(
    folder: Path,
) -> None:
    """Users who link a data set to where they work, or an entry to another."""
    (folder / "again").symlink_to("sub/file")
    (folder.parent / "linked").symlink_to(folder)
    assert read_plain(folder.parent / "linked", "again", max_bytes=6) == b"deeper"


def test_a_hugging_face_cache_is_read(tmp_path: Path) -> None:
    """Users of snapshot_download, whose files are all links into a blobs folder."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123" / "sub"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "77").write_bytes(b"weights")
    (snapshot / "w").symlink_to("../../../blobs/77")
    assert read_plain(snapshot, "w", max_bytes=7) == b"weights"


def test_what_is_not_a_plain_file_is_refused_at_once(folder: Path) -> None:
    """Users of a hostile folder: a pipe would block them, deaf to SIGTERM."""
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "sub"):
        with pytest.raises(ShardError, match=f"{name}: not a plain file"):
            open_plain(folder, name)
    with pytest.raises(ShardError, match="a link to /dev/zero"):
        open_plain(folder, "zero")
    for path in (folder / "pipe", folder / "zero", folder):
        with pytest.raises(ShardError, match="not a plain file"):
            read_bounded(path, 100)


def test_a_file_is_bounded_before_it_is_read(folder: Path) -> None:
    """Users of a folder whose 1 TB manifest would take all their memory."""
    with open(folder / "huge", "wb") as stream:
        stream.truncate(1 << 40)  # sparse
    with pytest.raises(ShardError, match="1099511627776 bytes, expected 1000 at most"):
        open_plain(folder, "huge", max_bytes=1000)
    with pytest.raises(ShardError, match="grew while it was read"):
        read_bounded("/proc/self/status", 1 << 20)  # says 0 bytes, holds many


def test_a_missing_file_is_an_error_of_the_data(folder: Path) -> None:
    """A user who gave the wrong path would not see which."""
    with pytest.raises(ShardError, match="home/none: No such file"):
        open_plain(folder, "none")
    with pytest.raises(ShardError, match="none/file: No such file"):
        open_plain(folder, "none/file")
