"""A server, or who wrote what it serves, cannot have local files read."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.format.index import open_index
from shards.remote.places import RetryPolicy, resolve_location
from shards.remote.transport import Stall
from shards.system.exits import exit_status

IMPATIENT = RetryPolicy(attempts=1, stall=Stall(seconds=5.0))


@contextlib.contextmanager
def serve(files: dict[str, bytes], redirect: str | None = None) -> Iterator[str]:
    """The URL of a server of ``files``, by path; others it sends to ``redirect``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in files:
                self.send_response(200)
                self.send_header("Content-Length", str(len(files[self.path])))
                self.end_headers()
                self.wfile.write(files[self.path])
            else:
                self.send_response(302 if redirect else 404)
                self.send_header("Location", redirect or "")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is spoken to directly."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def index_files(dataset: Path, location: object) -> dict[str, bytes]:
    """The index of ``dataset`` with another location, as a server has it."""
    names = ("classes.csv", "clips.npz", "index.json")
    files = {f"/d/{name}": (dataset / name).read_bytes() for name in names}
    meta = json.loads(files["/d/index.json"]) | {"location": location}
    files["/d/index.json"] = json.dumps(meta).encode()
    return files


@pytest.mark.parametrize(
    "location",
    [
        "file://DATASET",
        "local://DATASET",
        "FILE://DATASET",
        "file://localhost/DATASET",
        "DATASET",
        "/DATASET",
        "..DATASET",
        "a/../..DATASET",
        "sub//../DATASET",
        "simplecache::file://DATASET",
        "pipe://cat DATASET/000000.tar",
        "zip://x::file://DATASET/a.zip",
        "reference://DATASET",
        "http://[::1",
    ],
)
def test_no_location_in_an_index_from_the_net_leads_to_local_files(
    dataset: Path, location: str
) -> None:
    """The audio of a user would be trained on, or its values sent on."""
    location = location.replace("DATASET", str(dataset))
    files = index_files(dataset, location)
    with serve(files) as url, pytest.raises(ShardError) as error:
        open_index(f"{url}/d", kind="audio", retry=IMPATIENT)
    assert exit_status(error.value) == 78


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "FILE:///etc/x"]
)
def test_a_redirection_to_other_than_http_is_refused_at_once(target: str) -> None:
    """It would be tried for minutes, or followed."""
    refused = pytest.raises(ShardError, match="redirect|refused")
    with serve({}, redirect=target) as url, refused as error:
        open_index(f"{url}/d", kind="audio", retry=RetryPolicy())
    assert exit_status(error.value) == 78


def test_a_redirection_to_http_is_followed(dataset: Path) -> None:
    """Buckets and hubs answer with the address of the file."""
    with serve(index_files(dataset, "shards")) as there:
        files = index_files(dataset, "shards")
        moved = {f"/moved{path}": data for path, data in files.items()}
        beyond_index = pytest.raises(ShardError, match="classes.csv")
        with serve({}, redirect=f"{there}/d/index.json") as url, beyond_index:
            open_index(f"{url}/d", kind="audio", retry=IMPATIENT)
        with serve(moved) as url:
            index = open_index(f"{url}/moved/d", kind="audio", retry=IMPATIENT)
    assert index.places[0] == f"{url}/moved/d/shards/000000.tar"


@pytest.mark.parametrize(
    ("home", "location", "place"),
    [
        ("/data/d", "tars", "/data/d/tars"),
        ("/data/d", "../tars", "/data/d/../tars"),
        ("/data/d", "/other", "/other"),
        ("/data/d", "file:///other%20one", "/other one"),
        ("/data/d", "http://host/tars/", "http://host/tars"),
        ("http://host/d", "tars", "http://host/d/tars"),
        ("http://host/d", "s3://bucket/tars", "s3://bucket/tars"),
        ("http://host/d", "%2e%2e/x", "http://host/d/%252e%252e/x"),
    ],
)
def test_a_location_is_a_folder_or_url_as_seen_from_its_index(
    home: str, location: str, place: str
) -> None:
    """Datasets adopted in place would not be found."""
    assert resolve_location(home, location) == place
