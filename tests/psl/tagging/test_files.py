"""psl tag over files, URLs and full disks: tables, what is told, what resumes."""

from __future__ import annotations

import contextlib
import csv
import http.server
import io
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import psl
from psl import tag, thresholds
from psl.tagger import Tagger
from psl.tagging.interrupts import keep_interrupts
from psl.tagging.job import Job, tag_to_file, tag_to_stream
from psl.tagging.live import listen, printer
from psl.tagging.outputs import open_writer
from psl.tagging.records import Record, Settings
from psl.tagging.rules import Event, Rules, read_thresholds
from psl.tagging.windows import Cut
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.system.exits import JobError
from tests.api.conftest import run_dir  # noqa: F401
from tests.conftest import RATE, TONES_HZ

HOSTILE = '=HYPERLINK("x"),\t\x1b[31mred\r\nrow\u202e'


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """Two seconds of a tone."""
    time = np.arange(2 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * TONES_HZ[0] * time)
    soundfile.write(tmp_path / "tone.wav", tone, RATE)
    return tmp_path / "tone.wav"


def on_cpu(run: Path, *words: object) -> None:
    """Psl tag."""
    tag.main([str(run), *map(str, words), "--device", "cpu"])


class FakeTagger:
    """Gives one record for each file, and stops at one, like Ctrl-C."""

    def __init__(self, stop_at: str = "") -> None:
        self.seen: list[str] = []
        self._stop_at = stop_at

    def fingerprint(self) -> str:
        """Of this one."""
        return "fake"

    def records(
        self, place: str, settings: Settings, on_seconds: object = None
    ) -> Iterator[Record]:
        """A window without tags."""
        self.seen.append(place)
        if place == self._stop_at:
            raise KeyboardInterrupt
        yield {"file": place, "start": 0.0, "end": 1.0, "tags": []}
        yield {"file": place, "seconds": 1.0}


def load_none(path: str, /, *, device: str | None) -> FakeTagger:
    """Never called in one process."""
    raise AssertionError


def job_of(files: list[str], kind: str = "json") -> Job:
    """Of one process."""
    return Job("model", dict.fromkeys(files, "x"), Settings(), kind)


def test_an_interrupted_folder_goes_on_with_the_files_that_are_left(
    tmp_path: Path,
) -> None:
    """A night's work would begin again, or half a table would pass for a whole one."""
    job, out = job_of(["a", "b", "c"]), tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        tag_to_file(job, FakeTagger("b"), load_none, out)
    assert not out.exists()
    second = FakeTagger()
    tag_to_file(job, second, load_none, out)
    assert second.seen == ["b", "c"]
    files = [json.loads(line)["file"] for line in out.read_text().splitlines()]
    assert files == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_a_full_disk_ends_the_work_and_is_not_blamed_on_the_file() -> None:
    """A thousand good files would be listed as unreadable."""
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(OSError, match="No space left"),
    ):
        tag_to_stream(job_of(["a", "b"]), FakeTagger(), load_none, full)


def test_one_unreadable_file_is_told_once(
    run_dir: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Users would look for two bad files."""
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(JobError, match=r"bad\.wav: not decodable audio"):
        on_cpu(run_dir, tmp_path / "bad.wav", "--out", tmp_path / "t.csv")
    assert not caplog.records
    assert [path.name for path in tmp_path.iterdir()] == ["bad.wav"]


def test_fitted_thresholds_decide_what_is_reported(
    run_dir: Path,  # noqa: F811
    dataset: Path,
    wav: Path,
    tmp_path: Path,
) -> None:
    """Thresholds of another class, or none, would be applied."""
    fitted = tmp_path / "t.json"
    thresholds.main([str(run_dir), "--audio", str(dataset), "--out", str(fitted)])
    found = json.loads(fitted.read_text())
    assert found["num_clips"] == 24 and len(found["thresholds"]) == 3
    for entry in found["thresholds"].values():
        entry["threshold"] = None
    found["thresholds"]["/m/mid"]["threshold"] = 1e-6
    fitted.write_text(json.dumps(found))
    out = tmp_path / "o.jsonl"
    on_cpu(run_dir, wav, "--thresholds", fitted, "--out", out)
    (window,) = map(json.loads, out.read_text().splitlines())
    assert [tag["mid"] for tag in window["tags"]] == ["/m/mid"]


def test_tables_are_what_their_programs_read(
    run_dir: Path,  # noqa: F811
    wav: Path,
    tmp_path: Path,
) -> None:
    """Audacity and Raven would refuse them, pandas would misread them."""
    words = [wav, "--window", 1, "--threshold", 1e-6]
    folder = tmp_path / "labels"
    on_cpu(run_dir, *words, "--format", "audacity", "--out", f"{folder}/")
    lines = (folder / "tone.wav.txt").read_text().splitlines()
    assert lines and all(line.startswith("0.000000\t2.000000\tTone ") for line in lines)
    on_cpu(run_dir, *words, "--out", tmp_path / "a.selections.txt")
    text = (tmp_path / "a.selections.txt").read_text()
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert len(rows) == len(lines) and rows[0]["Begin Path"] == str(wav)
    assert {row["End Time (s)"] for row in rows} == {"2.000000"}
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
    on_cpu(run_dir, *words, "--out", tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(table) == 2 * len(lines) and {row["start"] for row in table} == {0, 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.wav --min-duration 1", "add --events"),
        ("a.wav --events --top-k 3", "--top-k is of windows"),
        ("a.wav --all --threshold 0.5", "whatever the thresholds"),
        ("a.wav --all --events", "--all lists windows"),
        ("a.wav --hop 1", "give the length of the windows"),
        ("a.wav --window 1 --hop 2", "no sound is left out"),
        ("a.wav --threshold 0.5 --out a.xlsx", "no known format"),
        ("a.wav --listen", "either files or --listen"),
        ("a.wav --format parquet", "name a file with --out"),
        ("a.wav --timeline a.png", "--timeline needs --window"),
    ],
)
def test_flags_that_would_decide_nothing_are_refused(words: str, message: str) -> None:
    """A night's events would be unfiltered, and nobody would know."""
    with pytest.raises(ValueError, match=message):
        tag.main(["no_model", *words.split()])


@pytest.mark.parametrize("kind", ["text", "csv", "json", "audacity", "raven"])
def test_a_hostile_class_name_breaks_no_table_and_no_terminal(kind: str) -> None:
    """A model of strangers would forge rows, or control the terminal."""
    stream = io.BytesIO()
    writer = open_writer(kind, stream)
    event = {"name": HOSTILE, "mid": HOSTILE, "probability": 0.5}
    writer.write({"file": "a.wav", "start": 0.0, "end": 1.0} | event)
    writer.close()
    text = stream.getvalue().decode()
    assert not set("\x1b\r\u202e") & set(text)
    expected = {"json": 1, "audacity": 1}.get(kind, 2)
    assert len(text.splitlines()) == expected
    last = text.splitlines()[-1]
    assert last.count("\t") == {"audacity": 2, "raven": 9}.get(kind, 0)


def test_a_hostile_class_name_breaks_no_line_of_a_stream() -> None:
    """A user watching a microphone would see forged events."""
    stream = io.BytesIO()
    printer(stream, as_json=False)(Event(0.0, 1.0, HOSTILE, "/m/a", 0.5))
    assert stream.getvalue().count(b"\n") == 1 and b"\x1b" not in stream.getvalue()


def test_ctrl_c_ends_what_is_open_in_a_stream() -> None:
    """The last event of a night would be missing."""

    def blocks() -> Iterator[np.ndarray]:
        yield np.resize(np.array([9000, -9000], np.int16), 3 * RATE)
        raise KeyboardInterrupt

    def score(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probs = np.full((len(waveform), 1), 0.9, np.float32)
        return probs, probs[:, None]

    events = listen(
        blocks(),
        score,
        Classes(("/m/a",), ("A",)),
        rate=RATE,
        cut=Cut(2.0, 1.0),
        rules=Rules(0.5),
        frame_samples=None,
    )
    told = [(event.state, event.start, event.end) for event in events]
    assert told == [("begin", 0, 2), ("end", 0, 3)]


def test_ctrl_c_inside_a_decoder_is_not_lost() -> None:
    """The command would go on, and the file would pass for a damaged one."""

    def vio_read() -> str:  # named as the callbacks of soundfile
        signal.raise_signal(signal.SIGINT)
        return "read"

    def wait() -> None:
        threading.Event().wait(30)

    with keep_interrupts():
        assert vio_read() == "read"
        with pytest.raises(KeyboardInterrupt):
            wait()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@contextlib.contextmanager
def serve(data: bytes) -> Iterator[str]:
    """The address of a server of /a.wav, which drops each connection halfway."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            start = int(wanted.split("=")[1].rstrip("-")) if wanted else 0
            is_there = self.path == "/a.wav"
            self.send_response((206 if start else 200) if is_there else 404)
            rest = data[start:] if is_there else b""
            self.send_header("Content-Length", str(len(rest)))
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send_header("Content-Range", span)
            self.end_headers()
            self.wfile.write(rest if start else rest[: len(rest) // 2])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_url_that_drops_is_read_whole_and_one_that_is_not_there_counted(
    run_dir: Path,  # noqa: F811
    wav: Path,
    tmp_path: Path,
) -> None:
    """Half a recording would pass for a whole one."""
    tagger: Tagger = psl.load(run_dir, device="cpu")
    with serve(wav.read_bytes()) as url:
        (remote,) = tagger.tag(f"{url}/a.wav")
        (local,) = tagger.tag(wav)
        assert remote == local | {"file": f"{url}/a.wav"}
        with pytest.raises(JobError, match="1 of 2 files") as caught:
            on_cpu(run_dir, wav, f"{url}/b.wav", "--out", tmp_path / "t.csv")
    assert caught.value.status == 78 and (tmp_path / "t.csv").exists()


def test_a_class_is_suggested_only_if_its_name_is_alike(tmp_path: Path) -> None:
    """'Dog' of another model's file was told to be 'Tick-tock'."""
    classes = Classes(("/m/1", "/m/2"), ("Bark", "Tick-tock"))
    path = tmp_path / "thresholds.json"
    path.write_text('{"Dog": 0.3}')
    with pytest.raises(ShardError, match="model's 2; a file made for another") as told:
        read_thresholds(path, classes)
    assert "did you mean" not in str(told.value)
    path.write_text('{"Tik-tok": 0.3}')
    with pytest.raises(ShardError, match="did you mean 'Tick-tock'"):
        read_thresholds(path, classes)
