"""A cache folder that others write to: content is checked, links are not followed."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from shards.dataset.cache import ShardCache
from shards.format.index import Index, open_index
from shards.system.exits import JobError

NOBODY = 65534


@pytest.fixture
def index(dataset: Path) -> Index:
    """The tiny dataset at a URL."""
    memory = fsspec.filesystem("memory")
    for path in dataset.iterdir():
        memory.pipe(f"/cached/{path.name}", path.read_bytes())
    return open_index("memory://cached", kind="audio")


def read(cache: ShardCache, index: Index, shard: int = 0) -> bytes:
    return bytes(cache.view(index.places[shard], index.shards[shard]))


def open_cache(folder: Path, shards: int = 3) -> ShardCache:
    return ShardCache(folder, shards * 10**6, room_seconds=1)


def overwrite(path: Path) -> None:
    """Change a byte of a file, and not its length."""
    path.chmod(0o644)
    with open(path, "r+b") as stream:
        stream.seek(700)
        byte = stream.read(1)
        stream.seek(700)
        stream.write(bytes([byte[0] ^ 1]))


def test_a_shard_that_was_changed_in_the_cache_is_fetched_again(
    index: Index, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics would be those of other audio, and nobody would know."""
    truth = (dataset / index.shards[0].name).read_bytes()
    assert read(open_cache(tmp_path), index) == truth
    path = tmp_path / index.shards[0].sha256
    overwrite(path)
    assert read(open_cache(tmp_path), index) == truth == path.read_bytes()
    assert f"{path}: damaged" in caplog.text


def test_a_change_after_the_first_use_is_noticed_at_the_next_opening(
    index: Index, dataset: Path, tmp_path: Path
) -> None:
    """A disk that decays under a run of weeks would change what it trains on."""
    truth = (dataset / index.shards[0].name).read_bytes()
    cache = open_cache(tmp_path)
    assert read(cache, index) == truth
    cache.drop_idle()
    overwrite(tmp_path / index.shards[0].sha256)
    assert read(cache, index) == truth


def test_a_process_reads_a_shard_for_its_hash_once(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards opened again and again would each time cost their whole length."""
    read(open_cache(tmp_path), index)
    hashed: list[object] = []

    def note(stream: object) -> str:
        hashed.append(stream)
        return index.shards[0].sha256

    monkeypatch.setattr("shards.dataset.cache_memory.file_sha256", note)
    cache = open_cache(tmp_path)
    for _ in range(3):
        read(cache, index)
        cache.drop_idle()
    assert len(hashed) == 1


@pytest.mark.parametrize("folder_mode", [0o700, 0o755, 0o2775])
def test_who_may_read_the_folder_may_read_the_shards_and_nobody_writes_them(
    index: Index, tmp_path: Path, folder_mode: int
) -> None:
    """A group would fetch everything once a head, or change it under each other."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(folder_mode)
    before = os.umask(0o077)
    try:
        read(open_cache(cache), index)
    finally:
        os.umask(before)
    shard = stat.S_IMODE((cache / index.shards[0].sha256).stat().st_mode)
    lock = stat.S_IMODE((cache / ".lock").stat().st_mode)
    assert (shard, lock) == (folder_mode & 0o444, folder_mode & 0o666)


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", ["whole", "part", ".lock"])
def test_a_link_or_pipe_in_the_cache_is_refused(
    index: Index, tmp_path: Path, name: str, kind: str
) -> None:
    """One user could have another's files written to, or hang their runs."""
    shard = index.shards[0]
    cache, victim = tmp_path / "cache", tmp_path / "victim"
    cache.mkdir()
    victim.write_bytes(b"precious")
    names = {"whole": shard.sha256, "part": f"{shard.sha256}.{shard.num_bytes}.part"}
    path = cache / names.get(name, name)
    if kind == "link":
        path.symlink_to(victim)
    else:
        os.mkfifo(path)
    with pytest.raises(JobError, match="a link, expected|not a plain file; remove it"):
        read(open_cache(cache), index)
    assert victim.read_bytes() == b"precious"


def as_nobody(action: Callable[[], None]) -> str:
    """Run ``action`` in a process of another user; what it raised, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = "not run"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
            status = ""
        except BaseException:
            status = traceback.format_exc()
        finally:
            os.write(writer, status.encode()[-4000:])
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return told


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that all users can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "cache"


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes others")


@root_only
def test_a_second_user_reads_what_the_first_has_fetched(
    index: Index, dataset: Path, shared: Path
) -> None:
    """Everybody of a group would need room for full AudioSet."""
    truth = (dataset / index.shards[0].name).read_bytes()
    read(open_cache(shared), index)
    shared.chmod(0o755)

    def use() -> None:
        assert read(open_cache(shared), index) == truth
        try:
            read(open_cache(shared), index, 1)
        except PermissionError as error:
            assert "choose a folder you may write" in str(error), error
        else:
            raise AssertionError("wrote to another's folder")

    assert as_nobody(use) == ""


@root_only
def test_users_who_may_write_the_folder_fetch_for_each_other(
    index: Index, dataset: Path, shared: Path
) -> None:
    """The first user's half shard, and the limit, would block the second."""
    truth = (dataset / index.shards[1].name).read_bytes()
    shared.mkdir()
    shared.chmod(0o2777)
    read(open_cache(shared), index, 0)
    shard = index.shards[1]
    part = shared / f"{shard.sha256}.{shard.num_bytes}.part"
    part.write_bytes(b"half, by a process of the first user that was killed")
    part.chmod(0o644)

    def use() -> None:
        room_for_one = ShardCache(shared, shard.num_bytes + 1000, room_seconds=5)
        assert read(room_for_one, index, 1) == truth
        read(room_for_one, index, 2)
        assert not (shared / index.shards[0].sha256).exists()

    assert as_nobody(use) == ""
    assert read(open_cache(shared), index, 1) == truth
    assert (shared / index.shards[2].sha256).stat().st_uid == NOBODY


@root_only
def test_what_another_user_put_there_is_checked(
    index: Index, dataset: Path, shared: Path
) -> None:
    """Who may write the folder could choose what others train on."""
    truth = (dataset / index.shards[0].name).read_bytes()
    shared.mkdir()
    shared.chmod(0o1777)

    def plant() -> None:
        path = shared / index.shards[0].sha256
        path.write_bytes(bytes(index.shards[0].num_bytes))

    assert as_nobody(plant) == ""
    assert read(open_cache(shared), index) == truth

    def use_damaged() -> None:
        try:
            read(open_cache(shared), index)
        except JobError as error:
            assert "another user has to remove it" in str(error), error
        else:
            raise AssertionError("used it")

    overwrite(shared / index.shards[0].sha256)
    assert as_nobody(use_damaged) == ""


def test_threads_that_want_a_shard_at_once_read_it_for_its_hash_once(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight loader threads would read the first shard of a run eight times."""
    read(open_cache(tmp_path), index)
    hashed: list[object] = []

    def note(stream: object) -> str:
        hashed.append(stream)
        return index.shards[0].sha256

    monkeypatch.setattr("shards.dataset.cache_memory.file_sha256", note)
    cache = open_cache(tmp_path)
    threads = [threading.Thread(target=read, args=(cache, index)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hashed) == 1
