"""Published teachers: only the right bytes become one, and its name finds it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import psl
from psl import evaluate, import_checkpoint, label
from psl.data.loader import open_cache
from psl.teachers import command
from psl.teachers.audioset import audioset_classes, select_classes
from psl.teachers.fetch import fetch
from psl.teachers.named import checkpoint_of
from psl.teachers.published import TEACHERS, File, PublishedTeacher
from shards import pack
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import open_index
from shards.remote.places import RetryPolicy
from shards.remote.transport import Stall
from shards.system.exits import JobError
from tests.needs import OPTIONAL
from tests.psl.models.test_mn import GOLDEN, PUBLISHED, SHARED, recording

RETRY = RetryPolicy(
    attempts=3, first_delay_seconds=0.01, stall=Stall(seconds=5.0, bytes_per_second=1)
)
NAME = "mn04_as_mAP_432.pt"
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in to the network</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"


@dataclass
class Server:
    """A server of one file that answers as a test says."""

    url: str = ""
    content: bytes = b""
    others: dict[str, bytes] = field(default_factory=dict)
    """Files by name; every other name is ``content``."""
    statuses: list[int] = field(default_factory=list)
    """Refusals, before anything is sent."""
    cut_at: int | None = None
    """The first answer breaks off after so many bytes."""
    has_ranges: bool = True
    says_length: bool = True
    asked: list[str] = field(default_factory=list)
    """The Range header of each request."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.asked.append(wanted)
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        content = self.others.get(handler.path.rpartition("/")[2], self.content)
        size, match = len(content), re.fullmatch(r"bytes=(\d+)-", wanted)
        start = int(match[1]) if match and self.has_ranges else 0
        if start and start >= size:
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if self.says_length:
            handler.send_header("Content-Length", str(size - start))
        handler.end_headers()
        stop = size if self.cut_at is None else self.cut_at
        self.cut_at = None
        handler.wfile.write(content[start:stop])


@pytest.fixture
def server(made: bytes) -> Iterator[Server]:
    """Serves the made file, until a test changes that."""
    state = Server(content=made)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/files"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of torch.save with mn04's names and shapes, and random weights."""
    torch.manual_seed(0)
    model: Any = psl.build_model("mn", width=0.4, pooling="clip")
    state = model.state_dict()
    path = tmp_path_factory.mktemp("made") / NAME
    torch.save({n: t for n, t in state.items() if "front_end" not in n}, path)
    return path.read_bytes()


@pytest.fixture
def mn04(made: bytes, monkeypatch: pytest.MonkeyPatch) -> PublishedTeacher:
    """The entry of mn04, for the made file."""
    file = File(NAME, hashlib.sha256(made).hexdigest(), len(made))
    entry = replace(TEACHERS["mn04"], files=(file,), tensors_sha256=None)
    monkeypatch.setitem(TEACHERS, "mn04", entry)
    return entry


def unchecked(teacher: PublishedTeacher) -> PublishedTeacher:
    """The entry without a hash or a size, as most are."""
    return replace(teacher, files=(File(teacher.files[0].name),))


def left_in(home: Path) -> list[str]:
    """Everything in the folder of teachers but locks."""
    return sorted(
        str(path.relative_to(home))
        for path in home.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


# Fetching


def test_a_fetched_teacher_is_the_published_file(
    mn04: PublishedTeacher, server: Server, made: bytes, tmp_path: Path
) -> None:
    """Labels would be those of another network, or of other classes."""
    folder = fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    assert folder == tmp_path / "mn04"
    tagger = psl.load(folder, device="cpu")
    (tmp_path / NAME).write_bytes(made)
    saved = torch.load(tmp_path / NAME, weights_only=True)
    weights = tagger.model.state_dict()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)
    assert tagger.sample_rate == 32000
    assert (len(tagger.classes), tagger.classes.names[0]) == (527, "Speech")
    assert not list(tmp_path.glob(".mn04.download"))
    assert fetch(mn04, tmp_path, mirror=server.url, retry=RETRY) == folder
    assert len(server.asked) == 1  # nothing is fetched twice


def test_a_damaged_teacher_is_fetched_again(
    mn04: PublishedTeacher, server: Server, tmp_path: Path
) -> None:
    """Who has one would have to find and delete a folder in the cache."""
    folder = fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    psl.load(folder, device="cpu")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_cut_download_goes_on(
    mn04: PublishedTeacher, server: Server, tmp_path: Path, has_ranges: bool
) -> None:
    """Slow lines would never get a large teacher."""
    server.cut_at, server.has_ranges = 1_000_000, has_ranges
    fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    first, second = server.asked
    assert first == ""
    assert re.fullmatch(r"bytes=[1-9]\d*-", second)
    psl.load(tmp_path / "mn04", device="cpu")


def test_another_start_goes_on_where_one_gave_up(
    mn04: PublishedTeacher, server: Server, tmp_path: Path
) -> None:
    """Each try on a bad network would start from the beginning."""
    server.cut_at = 1_000_000
    once = replace(RETRY, attempts=1)
    with pytest.raises(JobError, match=r"connection closed after .*fetch mn04 --file"):
        fetch(mn04, tmp_path, mirror=server.url, retry=once)
    assert left_in(tmp_path) == [f".mn04.download/{NAME}.part"]
    fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    assert server.asked[1] == "bytes=1000000-"


def test_a_rest_of_another_version_is_thrown_away(
    mn04: PublishedTeacher, server: Server, tmp_path: Path
) -> None:
    """The two halves would never fit, whatever is tried."""
    part = tmp_path / ".mn04.download" / f"{NAME}.part"
    part.parent.mkdir()
    part.write_bytes(bytes(1000))
    fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    assert server.asked == ["bytes=1000-", ""]


@pytest.mark.parametrize("size", [0, 100], ids=["whole", "too long"])
def test_a_whole_download_that_was_not_converted_is_used(
    mn04: PublishedTeacher, server: Server, made: bytes, tmp_path: Path, size: int
) -> None:
    """A kill between download and conversion would block every later start."""
    nobody_knows = replace(mn04, files=(replace(mn04.files[0], num_bytes=None),))
    part = tmp_path / ".mn04.download" / f"{NAME}.part"
    part.parent.mkdir()
    part.write_bytes(made + bytes(size))
    fetch(nobody_knows, tmp_path, mirror=server.url, retry=RETRY)
    assert len(server.asked) == (2 if size else 0)


@pytest.mark.parametrize("statuses", [[503], [429, 500]])
def test_a_busy_server_is_asked_again(
    mn04: PublishedTeacher, server: Server, tmp_path: Path, statuses: list[int]
) -> None:
    """GitHub and Zenodo limit how often one may ask."""
    server.statuses = list(statuses)
    fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    assert len(server.asked) == len(statuses) + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PAGE, "is a web page and not the file"),
        (POINTER, "is a Git LFS pointer"),
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(500), "fetch it again|BadZip|zip"),
    ],
    ids=["page", "pointer", "empty", "cut zip"],
)
def test_what_is_not_the_file_is_never_a_teacher(
    mn04: PublishedTeacher, server: Server, tmp_path: Path, content: bytes, message: str
) -> None:
    """Hotel networks answer every request with a page, and 200."""
    server.content = content
    with pytest.raises((ShardError, ValueError), match=message) as caught:
        fetch(unchecked(mn04), tmp_path, mirror=server.url, retry=RETRY)
    assert "psl teachers fetch mn04 --file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_wrong_size_or_hash_is_said(
    mn04: PublishedTeacher, server: Server, made: bytes, tmp_path: Path
) -> None:
    """A file that was replaced on the server would label differently in silence."""
    server.content = made[:-1]
    with pytest.raises(
        ShardError, match=rf"{len(made) - 1} bytes, expected {len(made)}"
    ):
        fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    server.content = made[:-1] + b"!"
    with pytest.raises(ShardError, match="sha256 is [0-9a-f]{64}, expected"):
        fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    server.content, server.says_length = made + b"more", False
    with pytest.raises(ShardError, match=rf"more than {len(made)} bytes"):
        fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    assert left_in(tmp_path) == []


def test_the_file_of_another_teacher_is_refused(
    mn04: PublishedTeacher, server: Server, tmp_path: Path
) -> None:
    """Where no hash is known, mn10's labels could be taken for mn20's."""
    other = replace(TEACHERS["mn20"], files=(File(NAME),))
    with pytest.raises(ValueError, match=r"width 0\.4.*expected.*width 2\.0"):
        fetch(other, tmp_path, mirror=server.url, retry=RETRY)
    assert left_in(tmp_path) == []


def test_a_file_that_lost_a_tensor_is_refused(
    mn04: PublishedTeacher, server: Server, made: bytes, tmp_path: Path
) -> None:
    """A part of the teacher would be random."""
    weights = torch.load(io.BytesIO(made), weights_only=True)
    del weights["features.3.block.1.1.bias"]
    data = io.BytesIO()
    torch.save(weights, data)
    server.content = data.getvalue()
    with pytest.raises(
        ValueError, match=r"1 tensors do not fit.*give the file that mn04"
    ):
        fetch(unchecked(mn04), tmp_path, mirror=server.url, retry=RETRY)
    assert left_in(tmp_path) == []


def test_without_network_or_file_the_way_by_hand_is_told(
    mn04: PublishedTeacher, server: Server, tmp_path: Path
) -> None:
    """On a cluster node without network nobody would know what to do."""
    by_hand = rf"get {NAME} from https://github.com/\S+ in another way .*--file"
    with pytest.raises(JobError, match=f"gave up.*{by_hand}"):
        fetch(mn04, tmp_path, mirror="http://127.0.0.1:9/files", retry=RETRY)
    server.statuses = [404]
    with pytest.raises(ShardError, match=rf"not found \(HTTP 404\).*{by_hand}"):
        fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    with pytest.raises(ShardError, match="unknown protocol 'ftp'"):
        fetch(mn04, tmp_path, mirror="ftp://example.org/x", retry=RETRY)


def test_a_teacher_of_several_files_is_fetched_whole(
    server: Server, tmp_path: Path
) -> None:
    """The AST's classes and features are in files of their own."""
    transformers = pytest.importorskip("transformers")
    names = dict(enumerate(audioset_classes().names))
    config = transformers.ASTConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=256,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    torch.manual_seed(0)
    model = transformers.ASTForAudioClassification(config).eval()
    model.save_pretrained(tmp_path / "hub")
    transformers.ASTFeatureExtractor().save_pretrained(tmp_path / "hub")
    for file in TEACHERS["ast"].files:
        server.others[file.name] = (tmp_path / "hub" / file.name).read_bytes()
    folder = fetch(TEACHERS["ast"], tmp_path, mirror=server.url, retry=RETRY)
    assert len(server.asked) == 3
    tagger = psl.load(folder, device="cpu")
    found = tagger.model.state_dict()["classifier.dense.weight"]
    assert torch.equal(found, model.classifier.dense.weight)
    del server.others["config.json"]
    with pytest.raises(ValueError, match="fetch ast --file DIR"):
        fetch(TEACHERS["ast"], tmp_path / "b", mirror=server.url, retry=RETRY)
    by_hand = fetch(TEACHERS["ast"], tmp_path / "b", file=tmp_path / "hub")
    assert psl.load(by_hand, device="cpu").sample_rate == 16000


def test_what_is_in_the_way_stays(
    mn04: PublishedTeacher, server: Server, tmp_path: Path
) -> None:
    """A link or file of the user's would be deleted."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mn04").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ShardError, match="mn04: expected a folder, or nothing"):
        fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    (tmp_path / "mn04").unlink()
    (tmp_path / "mn04").write_text("mine")
    with pytest.raises(ShardError, match="mn04: expected a folder, or nothing"):
        fetch(mn04, tmp_path, mirror=server.url, retry=RETRY)
    assert (tmp_path / "mn04").read_text() == "mine"
    with pytest.raises(ValueError, match="for a file here use --file"):
        fetch(mn04, tmp_path, mirror=str(tmp_path), retry=RETRY)
    assert server.asked == []


def test_two_at_once_fetch_once(
    mn04: PublishedTeacher, server: Server, tmp_path: Path
) -> None:
    """Two jobs that start together would write into one file."""
    found: list[Path] = []

    def start() -> None:
        found.append(fetch(mn04, tmp_path, mirror=server.url, retry=RETRY))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "mn04"] * 2
    assert len(server.asked) == 1


# Files by hand


def test_a_file_by_hand_is_checked_like_a_download(
    mn04: PublishedTeacher, made: bytes, tmp_path: Path
) -> None:
    """A file from a colleague may be any file."""
    path = tmp_path / "from_a_colleague.pt"
    path.write_bytes(made)
    folder = fetch(mn04, tmp_path / "home", file=path)
    psl.load(folder, device="cpu")
    for content in (made[:-1], PAGE, POINTER, b""):
        path.write_bytes(content)
        with pytest.raises(ShardError, match=r"from_a_colleague\.pt.*give the file"):
            fetch(mn04, tmp_path / "other", file=path)
    with pytest.raises(ShardError, match="No such file"):
        fetch(mn04, tmp_path / "other", file=tmp_path / "nothing.pt")
    assert left_in(tmp_path / "other") == []


@pytest.mark.skipif(
    not GOLDEN.exists(), reason=f"{OPTIONAL}the published mn04 is not here"
)
@pytest.mark.parametrize("way", ["server", "file"])
def test_the_published_mn04_is_what_its_authors_code_is(
    server: Server, tmp_path: Path, way: str
) -> None:
    """Its name would stand for another network. The file here is no .pt: its tensors
    tell that it is mn04's.
    """
    entry, content = TEACHERS["mn04"], PUBLISHED.read_bytes()
    if way == "server":
        server.content = content
        digest = hashlib.sha256(content).hexdigest()
        entry = replace(entry, files=(File(PUBLISHED.name, digest, len(content)),))
        folder = fetch(entry, tmp_path, mirror=server.url, retry=RETRY)
    else:
        folder = fetch(entry, tmp_path, file=PUBLISHED)
    tagger = psl.load(folder, device="cpu")
    name, parts = next(iter(json.loads(GOLDEN.read_text()).items()))
    probs = tagger(recording(name))[0][0]
    for number, _, expected in parts["whole"]["top10"]:
        assert probs[number].item() == pytest.approx(expected, abs=1e-4)


# Names


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_cache.cache_clear()  # a process looks up the folder once
    return tmp_path / "cache/psl/shards/teachers"


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of a second, to be labelled with two of AudioSet's classes."""
    tmp_path = tmp_path_factory.mktemp("audio")
    wavs, classes = tmp_path / "wavs", tmp_path / "classes.csv"
    wavs.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(wavs / f"{number}.wav", noise, 16000)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        command.main(["classes", "Rain", "/m/09x0r"])
    classes.write_text(printed.getvalue())
    words = ["--audio", str(wavs), "--unlabelled", "--class-labels", str(classes)]
    pack.main([*words, "--out", str(tmp_path / "audio"), "--workers", "1"])
    return tmp_path / "audio"


def stored(teacher: str, audio: Path, out: Path, *more: str) -> np.ndarray:
    """All label rows, as ``psl.label`` writes them."""
    words = [f"teacher={teacher}", f"audio={audio}", f"out={out}", "chunk_seconds=1"]
    label.main([*words, *more])
    labels = MemberReader(open_index(out, kind="labels"))
    return np.concatenate([labels.labels(row) for row in range(len(labels.index))])


def test_a_name_labels_as_its_file_does(
    mn04: PublishedTeacher, made: bytes, home: Path, audio: Path, tmp_path: Path
) -> None:
    """The classes would be mixed up, or the name stand for other weights."""
    (tmp_path / NAME).write_bytes(made)
    command.main(["fetch", "mn04", "--file", str(tmp_path / NAME)])
    assert (home / "mn04/model.safetensors").exists()
    by_name = stored("mn04", audio, tmp_path / "by_name")
    classes = tmp_path / "all.csv"
    classes.write_text(audioset_classes().to_csv())
    out = tmp_path / "imported"
    words = [str(tmp_path / NAME), "--out", str(out), "--classes", str(classes)]
    import_checkpoint.main(words)
    np.testing.assert_array_equal(
        by_name, stored(str(out), audio, tmp_path / "by_path")
    )
    tagger = psl.load(out, device="cpu")
    assert [tagger.classes.names[number] for number in (0, 289)] == ["Speech", "Rain"]
    both = stored("[mn04, mn04]", audio, tmp_path / "both")
    np.testing.assert_allclose(both, by_name, atol=1e-3)


def test_a_teacher_in_the_cache_of_a_job_is_found(
    mn04: PublishedTeacher, made: bytes, home: Path, audio: Path, tmp_path: Path
) -> None:
    """A cluster's nodes share a folder that is nobody's home."""
    (tmp_path / NAME).write_bytes(made)
    cache = tmp_path / "scratch"
    words = ["--file", str(tmp_path / NAME), "--cache", str(cache)]
    command.main(["fetch", "mn04", *words])
    assert not home.exists()
    with pytest.raises(ValueError, match="run: psl teachers fetch mn04"):
        stored("mn04", audio, tmp_path / "no")
    stored("mn04", audio, tmp_path / "labels", f"loader.cache={cache}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mn04", "not fetched yet; run: psl teachers fetch mn04"),
        ("mn4", "no published teacher has this name; near it: .*mn04"),
        ("MN10", "near it: mn10"),
        ("nothing-like-it-at-all", "no such file or folder.*psl teachers lists them"),
        ("ced_tiny", "trust_remote_code: true"),
    ],
)
def test_a_name_that_is_no_teacher_says_what_to_do(
    name: str, message: str, home: Path, audio: Path, tmp_path: Path
) -> None:
    """A typo would look like a missing folder, or ask the Hub."""
    with pytest.raises(ValueError, match=message):
        stored(name, audio, tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def test_a_model_is_named_wherever_one_is_read(
    mn04: PublishedTeacher, made: bytes, home: Path, tmp_path: Path
) -> None:
    """People would have to know the folder in the cache."""
    with pytest.raises(ValueError, match="run: psl teachers fetch mn04"):
        psl.load("mn04")
    with pytest.raises(ValueError, match="run: psl teachers fetch mn04"):
        evaluate.main(["checkpoint=mn04", "audio=nowhere", f"out={tmp_path}/eval"])
    (tmp_path / NAME).write_bytes(made)
    command.main(["fetch", "mn04", "--file", str(tmp_path / NAME)])
    assert psl.load("mn04", device="cpu").sample_rate == 32000
    assert checkpoint_of("mn04") == str(home / "mn04")
    assert checkpoint_of("runs/mn04") == "runs/mn04"


def test_a_path_wins_over_a_name(
    home: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of one's own, called mn04, would be replaced by another's."""
    (tmp_path / "mn04").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match="no checkpoint"):
        stored("mn04", audio, tmp_path / "labels")


# The table


def test_the_list_says_what_is_known(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    """People choose by rate, mAP and licence, and cite."""
    command.main([])
    table = capsys.readouterr().out
    assert re.search(r"^mn04 +43\.2 +32000 +sha256 +yes +- +MIT", table, re.MULTILINE)
    (home / "mn04").mkdir(parents=True)
    command.main(["--json"])
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["mn04"]["folder"] == str(home / "mn04")
    assert entries["mn10"]["folder"] is None
    assert entries["cnn14_16k"]["sample_rate"] == 16000
    for name, entry in entries.items():
        assert entry["licence"] and entry["citation"], name
        assert entry["url"].startswith("https://"), name
        assert entry["num_classes"] == 527
        assert 20 < entry["audioset_map"] < 55, name
        assert bool(entry["files"]) != bool(entry["setting"]), name
        for file in entry["files"]:
            assert file["sha256"] is None or re.fullmatch(
                "[0-9a-f]{64}", file["sha256"]
            )


def test_the_class_list_is_audiosets() -> None:
    """Every label would be of another class; the sum is that of the published file."""
    path = Path(psl.__file__).parent / "teachers/audioset_classes.csv"
    digest = "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    official = SHARED / "data/audioset/class_labels_indices.csv"
    if official.exists():
        assert official.read_bytes() == path.read_bytes()
    assert len(audioset_classes()) == 527


def test_classes_are_chosen_by_name_or_mid() -> None:
    """A newcomer's class list would have wrong machine ids."""
    chosen = select_classes(["rain", "/m/0bt9lr"])
    assert chosen.mids == ("/m/06mb1", "/m/0bt9lr")
    assert chosen.names == ("Rain", "Dog")
    with pytest.raises(ValueError, match="no class 'barking'"):
        select_classes(["barking"])
    with pytest.raises(ValueError, match="'Waves, surf'"):
        select_classes(["waves"])
    with pytest.raises(ValueError, match="named twice"):
        select_classes(["Dog", "/m/0bt9lr"])


def test_wrong_words_are_one_line(home: Path) -> None:
    """A traceback tells a newcomer nothing."""
    with pytest.raises(ValueError, match="'mn44'; near it: mn40"):
        command.main(["fetch", "mn44"])
    with pytest.raises(ValueError, match="ced_base: comes with code of its own"):
        command.main(["fetch", "ced_base"])
    with pytest.raises(ValueError, match="name one source"):
        command.main(["fetch", "mn04", "--file", "x", "--mirror", "http://a/b"])
    with pytest.raises(SystemExit), contextlib.redirect_stderr(None):
        command.main(["fetch"])
