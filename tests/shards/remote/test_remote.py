"""Datasets at a URL: every clip once, whatever the server does, in bounded room."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psl import evaluate, label, train
from shards import verify
from shards.dataset import cache_files
from shards.dataset.cache import ShardCache
from shards.dataset.prefetch import Prefetcher
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import Index, open_index, write_index
from shards.order.plan import Plan
from shards.remote.places import RetryPolicy
from shards.remote.transport import Stall
from shards.system.exits import JobError
from tests.conftest import Run, write_source
from tests.learning import (
    folder_bytes,
    losses,
    num_different,
    teacher_config,
    tiny_config,
)
from tests.remote_reader import CHUNK, QUICK, read_epoch
from tests.servers import RUNNERS, SERVERS, CuttingProxy, Serve, Server, free_port

Chunks = dict[tuple[str, int], bytes]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is spoken to directly, also where the rest of the net is not."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """24 clips of 2 s in 8 shards of 0.2 MB; not to be changed."""
    folder = tmp_path_factory.mktemp("packed")
    words = write_source(folder / "source", num_clips=24).pack_arguments(folder / "out")
    result = run("shards.pack", *words, "--clips-per-shard", "3")
    assert result.returncode == 0, result.stderr
    assert len(list((folder / "out").glob("*.tar"))) == 8
    return folder / "out"


@pytest.fixture(scope="module")
def truth(packed: Path) -> Chunks:
    """Every chunk of the clips, read by tarfile and soundfile."""
    chunks = {}
    for path in packed.glob("*.tar"):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                if name.endswith(".wav"):
                    stream = tar.extractfile(name)
                    assert stream is not None
                    pcm, _ = soundfile.read(io.BytesIO(stream.read()), dtype="int16")
                    for c in (0, 1):
                        part = pcm[c * CHUNK : (c + 1) * CHUNK]
                        chunks[name.removesuffix(".wav"), c] = part.tobytes()
    assert len(chunks) == 48
    return chunks


@pytest.fixture(scope="module", params=SERVERS)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts a web server over a folder: one in Python, and nginx if installed."""
    return RUNNERS[request.param]


@pytest.fixture(scope="module")
def server(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory, packed: Path
) -> Iterator[Server]:
    """A web server over the packed clips."""
    with serve(tmp_path_factory.mktemp("server") / "work", packed) as server:
        yield server


@pytest.fixture
def cut() -> Iterator[Callable[..., CuttingProxy]]:
    """Makes cutting proxies."""
    with contextlib.ExitStack() as stack:

        def make(port: int, **how: object) -> CuttingProxy:
            proxy = CuttingProxy(port, **how)  # type: ignore[arg-type]
            stack.callback(proxy.close)
            return proxy

        yield make


@contextlib.contextmanager
def watched(folder: Path, limit: int) -> Iterator[None]:
    """Fails if at any moment the files in ``folder`` have more than ``limit`` bytes."""
    end, largest = threading.Event(), [0]

    def watch() -> None:
        while not end.wait(0.001):
            total = 0
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(folder):
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat().st_size
            largest[0] = max(largest[0], total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
    assert 0 < largest[0] <= limit


def limit_of(packed: Path, num_shards: int) -> int:
    """Bytes in which ``num_shards`` shards fit and no more."""
    return num_shards * max(path.stat().st_size for path in packed.glob("*.tar")) + 1000


def wait_until(true: Callable[[], bool]) -> None:
    """Fails if it takes a minute."""
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("waited a minute")


def num_logged(server: Server, words: str) -> int:
    """Requests so far whose line in the log has ``words``; there must be one."""
    wait_until(lambda: any(words in line for line in server.log()))
    time.sleep(0.3)  # a worker writes its lines when it finds time
    return sum(words in line for line in server.log())


def check_epoch(
    url: str, cache: ShardCache, truth: Chunks, num_epochs: int = 1
) -> None:
    """Every chunk exactly once and bit for bit, within the cache's limit."""
    index = open_index(url, kind="audio", retry=QUICK)
    with watched(cache.folder, cache.limit_bytes):
        for epoch in range(num_epochs):
            found = list(read_epoch(index, cache, epoch))
            assert len(found) == 48
            assert {(key, chunk): pcm for key, chunk, pcm in found} == truth


def only_shard(index: Index) -> tuple[str, str, int]:
    """URL, sha256 and bytes of the first shard."""
    return index.places[0], index.shards[0].sha256, index.shards[0].num_bytes


@pytest.mark.parametrize("way", ["plain", "slow", "busy", "whole"])
def test_an_epoch_over_http_has_every_clip_once_in_a_cache_of_three_shards(
    server: Server, packed: Path, truth: Chunks, tmp_path: Path, way: str
) -> None:
    """Clips would be lost or doubled by a server that is slow, or answers 503 now and
    then, or ignores Range; or the cache would fill the disk.
    """
    # of the few requests that the busy server takes, others may have all for a while
    retry = dataclasses.replace(QUICK, attempts=200) if way == "busy" else QUICK
    cache = ShardCache(tmp_path / "cache", limit_of(packed, 3), retry=retry)
    check_epoch(server.url(way), cache, truth, num_epochs=2 if way == "plain" else 1)
    if way == "busy":
        assert num_logged(server, 'tar HTTP/1.1" 503')


def test_an_epoch_goes_on_when_the_server_is_killed_and_starts_again(
    server: Server, packed: Path, truth: Chunks, tmp_path: Path
) -> None:
    """A restart of a server would end, or spoil, every training run on it."""
    cache = ShardCache(tmp_path / "cache", limit_of(packed, 8), retry=QUICK)
    end, killed = threading.Event(), [0]

    def kill() -> None:
        while not end.wait(0.3):
            killed[0] += server.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        check_epoch(server.url("slow"), cache, truth)
    finally:
        end.set()
        thread.join()
    assert killed[0] >= 2
    # of any shard: a server killed between its last byte and its log writes no line
    assert num_logged(server, "GET /slow/00000")
    assert any('tar HTTP/1.1" 206' in line for line in server.log())


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("where", ["inside a member", "between members"])
def test_a_dropped_connection_is_taken_up_where_it_broke(
    server: Server,
    packed: Path,
    truth: Chunks,
    tmp_path: Path,
    cut: Callable[..., CuttingProxy],
    where: str,
    reset: bool,
) -> None:
    """A shard cut at the end of a member looks whole: its other clips would be lost."""
    index = open_index(packed, kind="audio")
    second_member = int(index.table.offset[1]) - 512  # its header
    num_bytes = second_member if where == "between members" else second_member + 777
    proxy = cut(server.port, num_bytes=num_bytes, num_cuts=10, reset=reset)
    cache = ShardCache(tmp_path / "cache", limit_of(packed, 8), retry=QUICK)
    check_epoch(f"{proxy.url}/plain", cache, truth)
    assert proxy.cuts_left == 0


def test_a_server_that_ignores_ranges_can_finish_a_half_fetched_shard(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """The whole file would be appended to its half. It takes one request."""
    before = sum("/whole/000000.tar" in line for line in server.log())
    index = open_index(server.url("whole"), kind="audio")
    _, sha256, num_bytes = only_shard(index)
    half = (packed / "000000.tar").read_bytes()[: num_bytes // 2]
    (tmp_path / f"{sha256}.{num_bytes}.part").write_bytes(half)
    MemberReader(index, ShardCache(tmp_path, 10**6, retry=QUICK)).samples(0, 0, 9)
    whole = (tmp_path / sha256).read_bytes()
    assert whole == (packed / "000000.tar").read_bytes()
    assert num_logged(server, '/whole/000000.tar HTTP/1.1" 200') == before + 1


def test_a_half_fetched_shard_is_not_fetched_from_the_start(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """A job that is killed often would never get a large shard."""
    index = open_index(server.url("plain"), kind="audio")
    _, sha256, num_bytes = only_shard(index)
    data = (packed / "000000.tar").read_bytes()
    (tmp_path / f"{sha256}.{num_bytes}.part").write_bytes(data[: num_bytes - 1000])
    MemberReader(index, ShardCache(tmp_path, 10**6, retry=QUICK)).samples(0, 0, 9)
    assert (tmp_path / sha256).read_bytes() == data
    assert num_logged(server, '000000.tar HTTP/1.1" 206 1000 ') == 1


def test_a_wrong_half_is_thrown_away(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """What a failing disk left of a download would spoil the shard for ever."""
    index = open_index(server.url("plain"), kind="audio")
    _, sha256, num_bytes = only_shard(index)
    (tmp_path / f"{sha256}.{num_bytes}.part").write_bytes(b"x" * 1000)
    MemberReader(index, ShardCache(tmp_path, 10**6, retry=QUICK)).samples(0, 0, 9)
    assert (tmp_path / sha256).read_bytes() == (packed / "000000.tar").read_bytes()


IMPATIENT = RetryPolicy(
    attempts=3,
    first_delay_seconds=0.01,
    longest_delay_seconds=0.02,
    stall=Stall(seconds=0.3),
)


def refused(index: Index, folder: Path, error: type[Exception]) -> str:
    """The message with which reading the first clip fails, soon and leaving nothing."""
    begun = time.monotonic()
    cache = ShardCache(folder, 10**6, retry=IMPATIENT)
    with pytest.raises(error) as caught:
        MemberReader(index, cache).samples(0, 0, 9)
    assert time.monotonic() - begun < 30
    assert not [p for p in folder.iterdir() if "." not in p.name]
    return str(caught.value)


def test_a_server_that_stays_broken_is_an_error_that_names_the_url(
    server: Server, tmp_path: Path, cut: Callable[..., CuttingProxy]
) -> None:
    """A run would hang for ever, or go on with fewer clips."""
    url = server.url("gone")
    index = open_index(url, kind="audio")
    message = refused(index, tmp_path / "a", JobError)
    assert f"{url}/000000.tar: HTTP 503; gave up" in message and "3 tries" in message
    with pytest.raises(JobError, match="down/index.json: HTTP 503; gave up"):
        open_index(server.url("down"), kind="audio", retry=IMPATIENT)
    silent = cut(0, num_bytes=None, num_cuts=0).url
    with pytest.raises(JobError, match=f"{silent}/index.json: .*timed out.*gave up"):
        open_index(silent, kind="audio", retry=IMPATIENT)
    with pytest.raises(JobError, match="refused.*gave up"):
        open_index(f"http://127.0.0.1:{free_port()}", kind="audio", retry=IMPATIENT)


def test_a_server_that_falls_silent_inside_a_shard_is_given_up(
    server: Server, tmp_path: Path, cut: Callable[..., CuttingProxy]
) -> None:
    """The run would wait for ever for the rest."""
    index = open_index(server.url("plain"), kind="audio")
    silent = cut(0, num_bytes=None, num_cuts=0).url
    moved = moved_to(index, silent)
    message = refused(moved, tmp_path, JobError)
    assert message.startswith(f"{silent}/000000.tar: ") and "timed out" in message


def moved_to(index: Index, url: str) -> Index:
    """``index`` with its shards elsewhere."""
    fields = {name: getattr(index, name) for name in Index.__dataclass_fields__}
    fields["places"] = tuple(f"{url}/{shard.name}" for shard in index.shards)
    return Index(**fields)


def test_a_missing_shard_is_an_error_at_once(server: Server, tmp_path: Path) -> None:
    """A typing error in an address would cost a minute of retries."""
    index = open_index(server.url("plain"), kind="audio")
    moved = moved_to(index, server.url("plain/nowhere"))
    message = refused(moved, tmp_path, ShardError)
    assert "nowhere/000000.tar: not found (HTTP 404)" in message
    assert num_logged(server, "/plain/nowhere/000000.tar") == 1
    with pytest.raises(ShardError, match="nowhere/index.json: not found"):
        open_index(server.url("nowhere"), kind="audio", retry=IMPATIENT)


@pytest.mark.parametrize("what", ["shorter", "longer", "other bytes"])
def test_a_shard_that_is_not_the_indexed_one_is_tried_twice_and_refused(
    serve: Serve, packed: Path, tmp_path: Path, what: str
) -> None:
    """Wrong clips would be trained on, or the wrong file kept in the cache."""
    files = tmp_path / "files"
    shutil.copytree(packed, files)
    tar = files / "000000.tar"
    data = bytearray(tar.read_bytes())
    if what == "other bytes":
        data[len(data) // 2] ^= 1
    tar.write_bytes(
        {"shorter": data[:-512], "longer": data + b"\0" * 512}.get(what, data)
    )
    with serve(tmp_path / "work", files) as server:
        index = open_index(server.url("plain"), kind="audio")
        message = refused(index, tmp_path / "cache", ShardError)
        assert num_logged(server, "000000.tar") == 2
    found = "sha256" if what == "other bytes" else f"{tar.stat().st_size} bytes"
    assert f"000000.tar: found {found}" in message
    expected, sha256 = index.shards[0].num_bytes, index.shards[0].sha256
    assert f"expected {expected} bytes of sha256 {sha256[:16]}" in message
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server on loopback, made the default one."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield f"http://{host}:{port}"
    server.stop()


def test_an_epoch_from_s3_has_every_clip_once_in_a_cache_of_three_shards(
    s3: str, packed: Path, truth: Chunks, tmp_path: Path
) -> None:
    """Whoever keeps data in a bucket could not train on it."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="audioset")
    for path in packed.iterdir():
        client.upload_file(str(path), "audioset", f"balanced/{path.name}")
    cache = ShardCache(tmp_path / "cache", limit_of(packed, 3), retry=QUICK)
    check_epoch("s3://audioset/balanced", cache, truth)
    with pytest.raises(ShardError, match="s3://audioset/nowhere/index.json: not found"):
        open_index("s3://audioset/nowhere", kind="audio", retry=QUICK)
    data = (packed / "000001.tar").read_bytes()
    client.put_object(Bucket="audioset", Key="balanced/000000.tar", Body=data[:-512])
    index = open_index("s3://audioset/balanced", kind="audio", retry=QUICK)
    assert f"found {len(data) - 512} bytes" in refused(
        index, tmp_path / "b", ShardError
    )


def test_memory_and_file_urls_work_and_a_file_url_is_not_copied(
    packed: Path, truth: Chunks, tmp_path: Path
) -> None:
    """Any protocol of fsspec on the list would be an empty promise."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in packed.iterdir():
        memory.pipe(f"/set/{path.name}", path.read_bytes())
    cache = ShardCache(tmp_path / "cache", limit_of(packed, 3), retry=QUICK)
    check_epoch("memory://set", cache, truth)
    found = list(read_epoch(open_index(f"file://{packed}", kind="audio"), None))
    assert {(key, chunk): pcm for key, chunk, pcm in found} == truth


@pytest.mark.parametrize(
    "place",
    [
        "pipe:touch CANARY",
        "pipe://touch CANARY",
        "simplecache::pipe:touch CANARY",
        "simplecache::http://127.0.0.1/x",
        "memory://x::pipe://touch CANARY",
        "ssh://host/x",
        "reference://x",
        "HTTP:///x",
        "http://user:password@127.0.0.1/x",
        "http://127.0.0.1/x?list=1",
    ],
)
def test_a_place_that_is_no_plain_url_of_the_list_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config, or an index from the net, could run commands here."""
    monkeypatch.chdir(tmp_path)
    words = "chained or malformed|unknown protocol|expected http|not found; expected"
    with pytest.raises(ShardError, match=words):
        open_index(place, kind="audio", retry=IMPATIENT)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new user would meet a traceback."""
    from fsspec.registry import _registry

    monkeypatch.delitem(_registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ShardError, match=r"install s3fs, or .*'s3fs>=[0-9.]+'"):
        open_index("s3://bucket/x", kind="audio", retry=IMPATIENT)


def test_a_location_says_where_the_tars_are(
    packed: Path, truth: Chunks, server: Server, tmp_path: Path
) -> None:
    """Datasets in read-only folders could not get an index elsewhere."""
    original = open_index(packed, kind="audio")
    (tmp_path / "link").symlink_to(packed)
    for number, location in enumerate([str(packed), "../link", server.url("plain")]):
        home = tmp_path / str(number)
        home.mkdir()
        write_index(home, moved_location(original, location))
        index = open_index(home, kind="audio")
        assert index.location == location
        assert index.fingerprint == original.fingerprint
        cache = ShardCache(tmp_path / "cache", 10**7)
        found = {(k, c): pcm for k, c, pcm in read_epoch(index, cache)}
        assert found == truth


def moved_location(index: Index, location: str) -> Index:
    """``index`` with the field ``location``."""
    fields = {name: getattr(index, name) for name in Index.__dataclass_fields__}
    return Index(**{**fields, "location": location})


@pytest.mark.parametrize("location", ["/etc", "../up", "pipe://x", 7, "file:///etc"])
def test_an_index_from_the_net_cannot_point_at_local_files(
    packed: Path, tmp_path: Path, location: object
) -> None:
    """Whoever serves an index could have local files read."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in packed.iterdir():
        memory.pipe(f"/bad/{path.name}", path.read_bytes())
    meta = json.loads((packed / "index.json").read_text())
    text = json.dumps({**meta, "location": location})
    memory.pipe("/bad/index.json", text.encode())
    with pytest.raises(ShardError):
        open_index("memory://bad", kind="audio")


def reader_process(url: str, cache: Path, limit: int) -> subprocess.Popen[str]:
    """Another process that reads an epoch."""
    words = [sys.executable, "-m", "tests.remote_reader", url, str(cache), str(limit)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_cache_of_three_shards(
    server: Server, packed: Path, truth: Chunks, tmp_path: Path
) -> None:
    """The ranks of a node would take each other's shards away, or wait for ever."""
    limit, cache = limit_of(packed, 3), tmp_path / "cache"
    expected = sorted(
        f"{key} {chunk} {hashlib.sha256(pcm).hexdigest()}"
        for (key, chunk), pcm in truth.items()
    )
    with watched(cache, limit):
        readers = [reader_process(server.url("plain"), cache, limit) for _ in range(2)]
        outputs = [reader.communicate(timeout=120)[0] for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0]
    assert [sorted(output.splitlines()) for output in outputs] == [expected] * 2


def test_a_reader_killed_while_it_fetches_leaves_nothing_half_and_another_goes_on(
    server: Server, packed: Path, truth: Chunks, tmp_path: Path
) -> None:
    """After a crash, half a shard would be read as a whole one, or be in the way."""
    limit, cache = limit_of(packed, 3), tmp_path / "cache"
    sizes = {s.sha256: s.num_bytes for s in open_index(packed, kind="audio").shards}
    with watched(cache, limit):
        for _ in range(3):
            victim = reader_process(server.url("slow"), cache, limit)
            for _ in range(3000):
                parts = list(cache.glob("*.part")) if cache.exists() else []
                with contextlib.suppress(FileNotFoundError):
                    if any(part.stat().st_size > 0 for part in parts):
                        break
                time.sleep(0.01)
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            whole = [path for path in cache.iterdir() if len(path.name) == 64]
            assert all(path.stat().st_size == sizes[path.name] for path in whole)
            assert list(cache.glob("*.part"))
    check_epoch(server.url("plain"), ShardCache(cache, limit, retry=QUICK), truth)


def test_a_cache_smaller_than_a_shard_is_refused_at_once(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """The run would wait for room that can never be."""
    index = open_index(server.url("plain"), kind="audio")
    with pytest.raises(ValueError, match="may hold 1000 bytes.*raise the limit"):
        MemberReader(index, ShardCache(tmp_path, 1000))


def test_a_shard_in_use_is_never_removed_and_the_wait_for_room_ends(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """A batch would be read from a file that is gone, or a job hang for ever."""
    index = open_index(server.url("plain"), kind="audio")
    limit = limit_of(packed, 1)
    holder = MemberReader(index, ShardCache(tmp_path, limit, retry=QUICK))
    view = holder.member(0)
    kept = bytes(view)
    other = ShardCache(tmp_path, limit, retry=QUICK, room_seconds=0.5)
    message = f"need .* in {tmp_path}: waited 0.5 seconds, but all of its {limit}"
    with pytest.raises(JobError, match=message):
        MemberReader(index, other).samples(3, 0, 9)
    assert bytes(view) == kept and (tmp_path / index.shards[0].sha256).exists()
    del view  # the map stays with the reader, who lets go of it when asked
    patient = ShardCache(tmp_path, limit, retry=QUICK, room_seconds=60)
    MemberReader(index, patient).samples(3, 0, 9)
    assert not (tmp_path / index.shards[0].sha256).exists()


def test_the_least_recently_used_shard_goes_first_and_foreign_files_stay(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """Shards would be fetched again and again, or a user's own files deleted."""
    (tmp_path / "thesis.tar").write_bytes(b"x" * 500_000)
    index = open_index(server.url("plain"), kind="audio")
    cache = ShardCache(tmp_path, limit_of(packed, 2), retry=QUICK)
    stop = threading.Event()
    for number, shard in enumerate([0, 1, 0, 2]):
        assert cache.fetch(index.places[shard], index.shards[shard], stop)
        for path in tmp_path.glob("[0-9a-f]*"):  # clocks of files are coarse
            status = path.stat()
            used = status.st_atime_ns - 10**9 * (4 - number)
            os.utime(path, ns=(used, status.st_mtime_ns))
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {index.shards[0].sha256, index.shards[2].sha256, "thesis.tar"}
    assert index.shards[1].sha256 not in names


def test_a_cached_shard_that_was_cut_is_fetched_again(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """A damaged cache would have to be found and emptied by hand."""
    index = open_index(server.url("plain"), kind="audio")
    path = tmp_path / index.shards[0].sha256
    path.write_bytes(b"cut")
    MemberReader(index, ShardCache(tmp_path, 10**6)).samples(0, 0, 9)
    assert path.read_bytes() == (packed / "000000.tar").read_bytes()


def forbid_large_files() -> None:
    """Let writing more than 100 kB to a file fail, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_shard_removed_between_opening_and_locking_is_not_taken_for_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes would hold more than the limit, one of them in a nameless file."""
    path = tmp_path / ("0" * 64)
    path.write_bytes(b"shard")

    def lock_late(stream: object, *, shared: bool) -> bool:
        path.unlink()
        return True

    monkeypatch.setattr(cache_files, "try_lock", lock_late)
    assert cache_files.open_whole(path, 5) is None


def test_a_full_disk_is_an_error_that_leaves_no_part_behind(
    server: Server, tmp_path: Path
) -> None:
    """The disk would stay full after the run that filled it has failed."""
    words = [sys.executable, "-m", "tests.remote_reader", server.url("plain")]
    result = subprocess.run(
        [*words, str(tmp_path), str(10**7)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=forbid_large_files,
    )
    assert result.returncode == 1 and "File too large" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_the_shards_a_rank_needs_are_those_its_steps_read_in_that_order() -> None:
    """The wrong shards would be fetched ahead. Compared with the steps themselves."""
    clips = np.array([3, 1, 4, 0, 5, 9, 2, 6])
    num_chunks = np.arange(clips.sum()) % 3 + 1
    plan = Plan(num_chunks, clips, global_batch_size=4, seed=5, window_shards=1)
    shard_of = np.repeat(np.arange(8), clips)
    assert plan.window_steps < plan.num_steps
    for rank in (0, 1):
        steps = list(plan.steps(2, rank=rank, world_size=2))
        for start in range(plan.num_steps):
            end = start - start % plan.window_steps + plan.window_steps
            rows = np.concatenate([rows for rows, _ in steps[start:end]])
            expected = list(dict.fromkeys(shard_of[rows].tolist()))
            found = plan.shards_needed(2, start, rank=rank, world_size=2)
            assert found.tolist() == expected


def test_shards_are_fetched_ahead_in_the_order_of_need_and_no_further(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """Every first read of a shard would wait for the server."""
    index = open_index(server.url("plain"), kind="audio")
    cache = ShardCache(tmp_path, 10**7, retry=QUICK)
    reader = MemberReader(index, cache)
    with Prefetcher([reader], limit_of(packed, 3)) as prefetcher:
        prefetcher.want([5, 2, 5, 7, 1])
        first = {index.shards[shard].sha256 for shard in (5, 2, 7)}
        wait_until(lambda: first <= {path.name for path in tmp_path.iterdir()})
        assert not (tmp_path / index.shards[1].sha256).exists()
        prefetcher.want([1])
        wait_until((tmp_path / index.shards[1].sha256).exists)
    gone = moved_to(index, f"http://127.0.0.1:{free_port()}")
    MemberReader(gone, cache).samples(3 * 5, 0, 9)


def test_what_cannot_be_fetched_ahead_fails_where_it_is_read(
    server: Server, tmp_path: Path
) -> None:
    """A broken shard would hang the run, or pass unseen."""
    index = open_index(server.url("plain"), kind="audio")
    shards = list(index.places)
    shards[3] = server.url("plain/nowhere.tar")
    fields = {name: getattr(index, name) for name in Index.__dataclass_fields__}
    broken = Index(**{**fields, "places": tuple(shards)})
    reader = MemberReader(broken, ShardCache(tmp_path, 10**7, retry=IMPATIENT))
    with Prefetcher([reader], 10**7) as prefetcher:
        prefetcher.want(range(8))
        wait_until(lambda: sum(len(p.name) == 64 for p in tmp_path.iterdir()) == 7)
        reader.samples(0, 0, 9)
        with pytest.raises(ShardError, match="nowhere.tar: not found"):
            reader.samples(9, 0, 9)


def test_a_prefetcher_without_room_waits_and_ends_when_told(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """Fetching ahead would take the room of what is read now, or outlive the run."""
    index = open_index(server.url("plain"), kind="audio")
    reader = MemberReader(index, ShardCache(tmp_path, limit_of(packed, 1), retry=QUICK))
    view = reader.member(0)
    before = threading.active_count()
    with Prefetcher([reader], 10**7) as prefetcher:
        prefetcher.want([1, 2, 3])
        time.sleep(0.3)
        assert (tmp_path / index.shards[0].sha256).exists() and len(view)
    wait_until(lambda: threading.active_count() <= before)


def test_training_from_a_url_has_the_losses_of_training_from_the_folder(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """Results would depend on where the data lies. One shard beyond the cache."""
    train.main(tiny_config(tmp_path / "local", packed))
    cache = tmp_path / "cache"
    url = server.url("plain")
    config = tiny_config(tmp_path / "remote", packed, f"loader.cache={cache}")
    words = [f"data.audio=[{url}]", f"data.valid={url}", "loader.cache_gb=0.0017"]
    with watched(cache, 1_700_000):
        train.main([*config, *words])
    local, remote = (losses(tmp_path / way / "run") for way in ("local", "remote"))
    assert len(local) == 12 and remote == local
    with pytest.raises(ValueError, match=r"8 shards of .* set loader.cache_gb=0.00"):
        small = ["loader.cache_gb=0.001", f"run_dir={tmp_path / 'small'}"]
        train.main([*config, *words, *small])


def test_labels_and_scores_of_a_dataset_at_a_url_are_those_of_the_folder(
    server: Server, packed: Path, tmp_path: Path
) -> None:
    """Only training could use remote data, or labels would depend on the place."""
    train.main(teacher_config(tmp_path, packed))
    for name, audio in [("local", str(packed)), ("remote", server.url("plain"))]:
        words = [f"audio={audio}", f"loader.cache={tmp_path / 'cache'}"]
        words += ["loader.cache_gb=0.0007"]
        out = tmp_path / name
        label.main([f"teacher={tmp_path / 'run'}", f"out={out / 'labels'}", *words])
        run_dir = f"checkpoint={tmp_path / 'run'}"
        evaluate.main([run_dir, f"out={out / 'eval'}", *words])
    assert num_different(tmp_path / "local" / "labels") > 20  # of 24, one a clip
    local, remote = (folder_bytes(tmp_path / way) for way in ("local", "remote"))
    measured = [json.loads(way.pop("eval/metrics.json")) for way in (local, remote)]
    assert [m.pop("labels") for m in measured] == [str(packed), server.url("plain")]
    assert measured[0] == measured[1] and local == remote
    assert 0 < sum(p.stat().st_size for p in (tmp_path / "cache").iterdir()) <= 700_000


def test_verify_reads_a_dataset_at_a_url(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An uploaded dataset could not be checked where it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "24 clips in 8 shards" in verify.verify(server.url("plain"))
    assert (tmp_path / "psl" / "shards" / ".lock").exists()
