"""psl download, from a segments CSV to audio that packs, on a site that misbehaves."""

from __future__ import annotations

import contextlib
import csv
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards import download, open_dataset, pack
from shards.system.exits import JobError
from tests.shards.downloading.site import Site, running, wait_until

CLASSES = 'index,mid,display_name\n0,/m/a,"A, or a"\n1,/m/b,B\n'


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as one:
        yield one


def write_list(folder: Path, *rows: str) -> Path:
    path = folder / "eval_segments.csv"
    header = "# Segments csv created now\n# num_ytids=2\n# YTID, start, end, labels\n"
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def words(site: Site, segments: Path, out: Path, *more: str) -> list[str]:
    """The words of a download, of one job unless ``more`` says otherwise."""
    place = ("--segments", str(segments), "--out", str(out))
    return [*place, "--url-template", site.template, "--jobs", "1", *more]


def fetch(site: Site, segments: Path, out: Path, *more: str) -> None:
    download.main(words(site, segments, out, *more))


def ledger(out: Path) -> dict[str, dict[str, object]]:
    """The last line of each segment, by key."""
    lines = (out / "ledger.jsonl").read_text().splitlines()
    return {entry["key"]: entry for entry in map(json.loads, lines)}


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.flac"))


def test_segments_are_cut_and_pack_with_no_further_word(
    site: Site, tmp_path: Path
) -> None:
    """A user would get other seconds of the videos than AudioSet labelled."""
    segments = write_list(
        tmp_path,
        'good1, 3.000, 6.000, "/m/a,/m/b"',
        'good2, 0.000, 4.000, "/m/b"',
        'good1, 7.000, 12.000, "/m/a"',
    )
    out = tmp_path / "audio"
    fetch(site, segments, out, "--jobs", "2")
    assert names(out) == [
        "good1_3.000_6.000.flac",
        "good1_7.000_12.000.flac",
        "good2_0.000_4.000.flac",
    ]
    wave, rate = soundfile.read(out / "good1_3.000_6.000.flac", dtype="float32")
    assert (rate, wave.shape) == (16000, (48000,))
    for second in range(3):  # seconds 3, 4 and 5 of the recording
        spectrum = np.abs(np.fft.rfft(wave[second * 16000 : (second + 1) * 16000]))
        assert spectrum.argmax() == 400 + 100 * (3 + second)
    (tmp_path / "classes.csv").write_text(CLASSES)
    pack.main(
        [
            *("--audio", str(out), "--segments", str(segments), "--workers", "1"),
            *("--class-labels", str(tmp_path / "classes.csv")),
            *("--out", str(tmp_path / "packed")),
        ]
    )
    packed = {clip.key: clip for clip in open_dataset(tmp_path / "packed")}
    assert sorted(packed) == ["good1_3000", "good1_7000", "good2_0"]
    assert packed["good1_7000"].num_samples == 5 * 16000
    assert site.asked["good1"] == 2, "one video, fetched once (and looked at before)"


def test_what_is_missing_is_said_and_the_rest_packs(site: Site, tmp_path: Path) -> None:
    """Videos disappear; a list with holes would not pack, or nobody knew which."""
    segments = write_list(
        tmp_path,
        'good1, 0.000, 3.000, "/m/a"',
        'none1, 0.000, 3.000, "/m/a"',
        'short, 2.000, 8.000, "/m/a,/m/b"',
        'short, 9.000, 12.000, "/m/b"',
    )
    out = tmp_path / "audio"
    fetch(site, segments, out)
    found = {key: (e["status"], e["reason"]) for key, e in ledger(out).items()}
    assert found == {
        "good1_0": ("done", ""),
        "none1_0": ("gone", "HTTP 404"),
        "short_2000": ("done", "short: 3.00 of 6.00 s"),
        "short_9000": ("gone", "5.00 s of audio, which ends before the segment"),
    }
    with open(out / "eval_segments.missing.csv") as stream:
        assert [row["key"] for row in csv.DictReader(stream)] == [
            "none1_0",
            "short_9000",
        ]
    (tmp_path / "classes.csv").write_text(CLASSES)
    pack.main(
        [
            *("--audio", str(out), "--workers", "1"),
            *("--segments", str(out / "eval_segments.present.csv")),
            *("--class-labels", str(tmp_path / "classes.csv")),
            *("--out", str(tmp_path / "packed")),
        ]
    )
    packed = {clip.key: clip for clip in open_dataset(tmp_path / "packed")}
    assert sorted(packed) == ["good1_0", "short_2000"]
    site.asked.clear()
    fetch(site, segments, out)
    assert not site.asked, "what is gone, or here, was asked for again"


def test_the_failed_are_tried_again_alone_and_lost_files_are_fetched_again(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every retry would go through two million videos."""
    rows = [f'{name}, 1.000, 3.000, "/m/a"' for name in ("good1", "fail1", "none1")]
    segments, out = write_list(tmp_path, *rows), tmp_path / "audio"
    with pytest.raises(JobError, match="1 segments failed.*--retry-failed"):
        fetch(site, segments, out)
    site.is_mended = True
    site.asked.clear()
    fetch(site, segments, out, "--retry-failed")
    assert set(site.asked) == {"fail1"}
    (out / "good1_1.000_3.000.flac").unlink()
    capsys.readouterr()
    fetch(site, segments, out, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["gone"], told["failed"], told["todo"]) == (2, 1, 0, 0)
    assert names(out) == ["fail1_1.000_3.000.flac", "good1_1.000_3.000.flac"]


def test_a_dry_run_asks_nobody_and_estimates(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One would begin what takes weeks, or fills the disk."""
    rows = [f'good{n}, 30.000, 40.000, "/m/a"' for n in range(900)]
    segments = write_list(tmp_path, *rows)
    more = ("--dry-run", "--json", "--jobs", "4", "--limit-rate", "400K")
    fetch(site, segments, tmp_path / "audio", *more, "--sleep", "2")
    told = json.loads(capsys.readouterr().out)
    assert not site.asked and not (tmp_path / "audio").exists()
    assert (told["segments"], told["todo"]) == (900, 900)
    assert told["estimate"]["bytes_to_fetch"] == 900 * 4_000_000
    assert told["estimate"]["bytes_on_disk_at_most"] == 900 * 10 * 16000 * 2
    # 4 MB at 100 KiB/s take a job 39.06 s, and it sleeps 2 s
    assert told["estimate"]["hours"] == pytest.approx(900 * 41.06 / 4 / 3600, abs=0.01)


def test_a_site_that_refuses_is_left_in_peace_and_then_given_up(
    site: Site, tmp_path: Path
) -> None:
    """YouTube blocks an address that goes on asking."""
    segments = write_list(tmp_path, 'busy1, 0.000, 3.000, "/m/a"')
    site.busy = 2
    fetch(site, segments, tmp_path / "a", "--backoff", "0.05")
    assert site.asked["busy1"] == 4, "refused twice, then looked at and fetched"
    assert names(tmp_path / "a") == ["busy1_0.000_3.000.flac"]
    site.busy = 1000
    site.asked.clear()
    with pytest.raises(JobError, match="refuses after 6 pauses: HTTP 429"):
        fetch(site, segments, tmp_path / "b", "--backoff", "0.01")
    assert site.asked["busy1"] == 7
    assert (tmp_path / "b" / "ledger.jsonl").read_text() == "", "it has not failed"


def test_a_trickling_server_holds_up_nobody_for_long(
    site: Site, tmp_path: Path
) -> None:
    """One such server would hold each job for hours."""
    rows = [f'{name}, 0.000, 3.000, "/m/a"' for name in ("slow1", "good1")]
    segments, out = write_list(tmp_path, *rows), tmp_path / "audio"
    with pytest.raises(JobError, match="1 segments failed"):
        fetch(site, segments, out, "--video-timeout", "2")
    assert ledger(out)["slow1_0"]["reason"] == "not finished in 2 s"
    assert names(out) == ["good1_0.000_3.000.flac"]
    assert not (out / ".downloading").exists()


@contextlib.contextmanager
def started(
    *arguments: str, max_bytes: int | None = None
) -> Iterator[subprocess.Popen]:
    """A download as a process of its own."""

    def limit() -> None:
        if max_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    command = [sys.executable, "-m", "shards.download", *arguments]
    with subprocess.Popen(
        command,
        preexec_fn=limit,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGTERM, 75, "stopped as asked; run the same command again to resume"),
        (signal.SIGINT, 130, "interrupted; run the same command again to resume"),
        (signal.SIGKILL, -9, ""),
    ],
)
def test_a_download_that_is_stopped_resumes_and_a_second_one_is_refused(
    site: Site, tmp_path: Path, number: int, status: int, line: str
) -> None:
    """Weeks of downloads would be lost, or half a clip be taken for a whole one.

    Two downloads into one folder would empty each other's.
    """
    rows = [f'{name}, 0.000, 3.000, "/m/a"' for name in ("good1", "slow1", "good2")]
    segments, out = write_list(tmp_path, *rows), tmp_path / "audio"
    with started(*words(site, segments, out)) as process:
        wait_until(lambda: site.asked["slow1"] > 1)
        with pytest.raises(JobError, match="another process downloads into it"):
            fetch(site, segments, out)
        assert (out / ".downloading").exists()
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == status, told
    assert line in told and "Traceback" not in told
    assert names(out) == ["good1_0.000_3.000.flac"]
    with open(out / "ledger.jsonl", "a") as stream:
        stream.write('{"key": "torn')
    site.asked.clear()
    site.is_mended = True
    fetch(site, segments, out)
    assert set(site.asked) == {"slow1", "good2"}
    assert len(names(out)) == 3
    assert set(ledger(out)) == {"good1_0", "slow1_0", "good2_0"}


def test_a_full_disk_ends_it_with_one_line_and_no_half_file(
    site: Site, tmp_path: Path
) -> None:
    """Two million segments would be called failed for want of space.

    A limit on the size of files stands for the full disk: write(2) fails as well.
    """
    rows = [f'good{n}, 0.000, 3.000, "/m/a"' for n in range(3)]
    segments, out = write_list(tmp_path, *rows), tmp_path / "audio"
    with started(*words(site, segments, out), max_bytes=200_000) as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.splitlines()[-1].startswith("error: ") and "[Errno 27]" in told
    assert names(out) == [] and (out / "ledger.jsonl").read_text() == ""
    fetch(site, segments, out)
    assert len(names(out)) == 3
