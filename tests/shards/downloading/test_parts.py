"""Parts of psl download: lists, ledger, what errors mean, flags."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shards import download
from shards.downloading.ledger import read_ledger
from shards.downloading.problems import explain
from shards.downloading.video import FetchSettings, fetch_video
from shards.downloading.wanted import Cut, Video, read_wanted
from shards.errors import ShardError
from tests.needs import OPTIONAL
from tests.shards.downloading.site import running

REPOSITORY = Path(__file__).parents[3]
AUDIOSET = REPOSITORY.parent / "shared" / "data" / "audioset"
needs_audioset = pytest.mark.skipif(
    not AUDIOSET.is_dir(),
    reason=f"{OPTIONAL}AudioSet's lists are not next to the clone",
)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("page", "Unsupported URL"),
        ("junk", "truncated"),
        ("cut", "100000 bytes read, 429244 more expected"),
        ("fail", "HTTP Error 503"),
    ],
)
def test_what_is_not_the_audio_fails_with_its_reason(
    name: str, reason: str, tmp_path: Path
) -> None:
    """A login page, or half a file, would be a clip."""
    with running() as site:
        folder = tmp_path / "t"
        folder.mkdir()
        settings = FetchSettings(tmp_path, site.template)
        cut = Cut(name, 3.0, 6.0, "/m/a")
        fetched = fetch_video(Video(name, (cut,)), settings, folder)
    ((_, record),) = fetched.records
    assert record.status == "failed" and reason in record.reason
    assert not list(tmp_path.glob("*.flac"))


def test_a_file_beyond_the_limit_is_given_up(tmp_path: Path) -> None:
    """A stream of ten hours would fill the disk."""
    with running() as site:
        folder = tmp_path / "t"
        folder.mkdir()
        settings = FetchSettings(tmp_path, site.template, max_bytes=200_000)
        cut = Cut("good", 3.0, 6.0, "/m/a")
        fetched = fetch_video(Video("good", (cut,)), settings, folder)
    ((_, record),) = fetched.records
    assert "1 MB or more" in record.reason or "0 MB or more" in record.reason


def test_segments_that_are_cut_already_are_taken_whole(tmp_path: Path) -> None:
    """A mirror of cut segments would be cut once more."""
    with running() as site:
        folder = tmp_path / "t"
        folder.mkdir()
        settings = FetchSettings(tmp_path, site.template, is_cut=True)
        cut = Cut("good", 100.0, 112.0, "/m/a")
        fetched = fetch_video(Video("good", (cut,)), settings, folder)
    assert [record.status for _, record in fetched.records] == ["done"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[youtube] x: Video unavailable", "gone"),
        ("[youtube] x: Private video. Sign in if you've been granted access", "failed"),
        ("[youtube] x: This video has been removed by the uploader", "gone"),
        (
            "Video unavailable. The account of the uploader has been terminated",
            "gone",
        ),
        (
            "The uploader has not made this video available in your country",
            "failed",
        ),
        ("[youtube] x: Sign in to confirm your age. This video may be", "failed"),
        ("[youtube] x: Sign in to confirm you’re not a bot.", "blocked"),
        ("unable to write data: [Errno 28] No space left on device", "machine"),
        ("[youtube] x: Requested format is not available", "failed"),
    ],
)
def test_messages_of_the_site_are_sorted(message: str, kind: str) -> None:
    """Blocked would count as gone, and a whole list be lost."""
    assert explain(Exception(f"ERROR: {message}")).kind == kind


def test_a_proxy_with_its_password_is_not_written_down() -> None:
    """It would be in a ledger that people share."""
    error = Exception("cannot reach http://me:secret@host:1 now")
    reason = explain(error, secret="http://me:secret@host:1").reason
    assert reason == "cannot reach PROXY now"


def test_a_strong_list_names_segments_with_the_labels_of_their_events(
    tmp_path: Path,
) -> None:
    """Those with strong labels could not fetch their audio."""
    path = tmp_path / "strong.tsv"
    path.write_text(
        "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
        "b0RFKhbpFJA_30000\t0.0\t2.5\t/m/03m9d0z\n"
        "b0RFKhbpFJA_30000\t4.0\t4.5\t/m/03m9d0z\n"
        "b0RFKhbpFJA_30000\t0.0\t10.0\t/m/07pjwq1\n"
        "_-a_0\t0.0\t10.0\t/m/07pjwq1\n"
    )
    assert read_wanted(path) == [
        Cut("b0RFKhbpFJA", 30.0, 40.0, "/m/03m9d0z,/m/07pjwq1"),
        Cut("_-a", 0.0, 10.0, "/m/07pjwq1"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        '../../etc, 0.000, 1.000, "/m/a"',
        'a b, 0.000, 1.000, "/m/a"',
        'a&t=1, 0.000, 1.000, "/m/a"',
        '.hidden, 0.000, 1.000, "/m/a"',
        'a, 5.000, 1.000, "/m/a"',
        'a, 0.000, nan, "/m/a"',
        'a, 0.000, 9000.000, "/m/a"',
    ],
)
def test_rows_that_would_leave_the_folder_or_the_video_are_refused(
    row: str, tmp_path: Path
) -> None:
    """An id becomes part of a URL and of a file's name."""
    path = tmp_path / "list.csv"
    path.write_text(row + "\n")
    with pytest.raises(ShardError, match="list.csv: line 1"):
        read_wanted(path)


def test_a_ledger_with_a_torn_end_is_read_and_other_damage_is_named(
    tmp_path: Path,
) -> None:
    """A kill would make the whole download impossible to resume."""
    line = json.dumps({"file": "a_0.000_1.000.flac", "status": "gone", "reason": "x"})
    path = tmp_path / "ledger.jsonl"
    path.write_text(f'{line}\n{{"file": "b_0')
    assert list(read_ledger(path)) == ["a_0.000_1.000.flac"]
    for bad in ("{}", "[1]", '{"file": "a", "status": "perhaps"}', "\0\0\0"):
        path.write_text(f"{line}\n{bad}\n{line}\n")
        with pytest.raises(ShardError, match="line 2: not a record"):
            read_ledger(path)


@needs_audioset
def test_lists_come_from_a_copy_and_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A truncated list would be a smaller AudioSet, and nobody the wiser."""
    names = ("balanced_train", "eval", "class_labels", "ontology")
    words = ["--lists", *names, "--out", str(tmp_path / "lists")]
    download.main([*words, "--lists-from", str(AUDIOSET)])
    assert capsys.readouterr().out.count("sha256 as expected") == 4
    download.main([*words, "--lists-from", str(tmp_path / "nowhere")])
    assert capsys.readouterr().out.count("is here") == 4
    assert len(read_wanted(tmp_path / "lists" / "eval_segments.csv")) == 20371
    assert len(read_wanted(tmp_path / "lists/balanced_train_segments.csv")) == 22160
    copy = tmp_path / "copy"
    shutil.copytree(AUDIOSET, copy)
    whole = (copy / "eval_segments.csv").read_bytes()
    (copy / "eval_segments.csv").write_bytes(whole[:-100])
    words = ["--lists", "eval", "--out", str(tmp_path / "b"), "--lists-from", str(copy)]
    with pytest.raises(ShardError, match="sha256 is .* --any-edition"):
        download.main(words)
    (copy / "eval_segments.csv").write_text("<html>Sign in</html>")
    with pytest.raises(ShardError, match="begins with '<html>"):
        download.main([*words, "--any-edition"])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--url-template", "http://x/"), "expected a URL with {id}"),
        (("--url-template", "http://x/{id}/{id.__class__}"), "no other braces"),
        (("--url-template", "file:///{id}"), "expected http"),
        (("--limit-rate", "fast"), "bytes per second"),
        (("--limit-rate", "0"), "bytes per second"),
        (("--jobs", "0"), "1 to 64"),
        (("--sleep", "nan"), "0 to 86400"),
        (("--cookies", "nowhere.txt"), "no such file"),
        (("--at-most", "0"), "1 or more"),
        (("--lists-from", "x"), "are for --lists"),
    ],
)
def test_wrong_flags_are_told_apart(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """A job would run for a day with what was not meant."""
    (tmp_path / "l.csv").write_text("a, 0, 1, b\n")
    base = ["--segments", str(tmp_path / "l.csv"), "--out", str(tmp_path / "o")]
    with pytest.raises(ValueError, match=message):
        download.main([*base, *words])
    assert not (tmp_path / "o").exists()
    with pytest.raises(ValueError, match="--lists evil: unknown"):
        download.main(["--lists", "evil", "--out", str(tmp_path / "o")])
