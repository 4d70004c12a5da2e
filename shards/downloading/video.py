"""One video: its audio is fetched by yt-dlp, and its segments are cut from it.

Owns what yt-dlp is told. It needs no ffmpeg program: the best audio is taken as the
site has it, and decoded by shards/audio.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.audio.decode import load_segment
from shards.audio.members import encode
from shards.downloading.ledger import Record
from shards.downloading.problems import Problem, explain
from shards.downloading.wanted import Cut, Video
from shards.errors import ShardError
from shards.system.exits import EXIT_UNAVAILABLE, JobError
from shards.system.extras import pip_install
from shards.system.files import write_atomic
from shards.system.text import plain

YOUTUBE = "https://www.youtube.com/watch?v={id}"
SHORT_SECONDS = 0.1
"""A segment that lacks less is not called short; codecs round by that."""


@dataclass(frozen=True)
class FetchSettings:
    """What holds for every video."""

    out: Path
    url_template: str = YOUTUBE
    """Where ``{id}`` is."""
    is_cut: bool = False
    """Whether the site has the segments, cut already, and not whole recordings."""
    sample_rate: int = 16000
    """Hz"""
    format: str = "bestaudio/best"
    """yt-dlp's choice among a video's forms."""
    bytes_per_second: float | None = None
    """Limit of one job."""
    cookies: Path | None = None
    """In Netscape's form."""
    proxy: str | None = None
    silence_seconds: float = 20.0
    """A connection that says nothing for so long is dead."""
    max_bytes: int = 1 << 30
    """A longer file is not fetched to its end."""


@dataclass(frozen=True)
class Fetched:
    """What became of a video: a record of each segment, or else what is in the way."""

    records: tuple[tuple[Cut, Record], ...] = ()
    problem: Problem | None = None
    """Of kind blocked or machine: the video is to be tried again."""


class _TooLarge(Exception):
    pass


class _Silent:
    """yt-dlp's messages come with its exceptions; nothing is printed."""

    def debug(self, message: str) -> None:
        pass

    info = warning = error = debug


def import_yt_dlp() -> Any:
    """The package yt_dlp. Raises JobError saying how to install it."""
    try:
        import yt_dlp
    except ImportError:
        raise JobError.ending_with(
            EXIT_UNAVAILABLE,
            f"psl download needs yt-dlp; install it: {pip_install('download')}",
        ) from None
    return yt_dlp


def fetch_video(video: Video, settings: FetchSettings, folder: Path) -> Fetched:
    """Fetch ``video`` into the empty folder ``folder`` and write its segments.

    The files of segments appear whole. Raises nothing for what the site, or a full
    disk, does.
    """
    began = time.monotonic()
    try:
        path = _download(video, settings, folder)
    except Exception as error:  # yt-dlp raises what its extractors happen to raise
        problem = explain(error, secret=settings.proxy)
        if problem.kind in ("blocked", "machine"):
            return Fetched(problem=problem)
        status: Any = problem.kind
        seconds = time.monotonic() - began
        return Fetched(
            tuple(
                (cut, Record(cut.file_name, status, problem.reason, 0, seconds))
                for cut in video.cuts
            )
        )
    share, records = path.stat().st_size // len(video.cuts), []
    for cut in video.cuts:
        try:
            status, reason = _write_cut(path, cut, settings)
        except OSError as error:
            return Fetched(problem=explain(error))
        seconds = (time.monotonic() - began) / len(video.cuts)
        record = Record(cut.file_name, status, reason, share, round(seconds, 3))
        records.append((cut, record))
    return Fetched(tuple(records))


def _download(video: Video, settings: FetchSettings, folder: Path) -> Path:
    """The file that yt-dlp makes in ``folder``."""
    yt_dlp = import_yt_dlp()
    with yt_dlp.YoutubeDL(_options(settings, folder)) as downloader:
        downloader.extract_info(settings.url_template.format(id=video.clip_id))
    found = [path for path in folder.iterdir() if path.name.startswith("audio.")]
    whole = [path for path in found if path.suffix not in (".part", ".ytdl")]
    if len(whole) != 1:
        raise ValueError("yt-dlp brought no file; is it a live stream, or a playlist?")
    return whole[0]


def _options(settings: FetchSettings, folder: Path) -> dict[str, Any]:
    """For yt_dlp.YoutubeDL."""
    options: dict[str, Any] = {
        "format": settings.format,
        "outtmpl": {"default": str(folder / "audio.%(ext)s").replace("%%", "%")},
        "logger": _Silent(),
        "noprogress": True,
        "color": "never",
        "noplaylist": True,
        "playlist_items": "1",
        "fixup": "never",  # needs ffmpeg
        "updatetime": False,
        "socket_timeout": settings.silence_seconds,
        "retries": 2,
        "fragment_retries": 2,
        "extractor_retries": 2,
        "skip_unavailable_fragments": False,  # a hole would shift the segment
        "progress_hooks": [lambda progress: _check_size(progress, settings.max_bytes)],
    }
    if settings.bytes_per_second is not None:
        options["ratelimit"] = settings.bytes_per_second
    if settings.proxy is not None:
        options["proxy"] = settings.proxy
    if settings.cookies is not None:  # yt-dlp writes into it, so each has its own
        own = folder / "cookies.txt"
        shutil.copyfile(settings.cookies, own)
        own.chmod(0o600)
        options["cookiefile"] = str(own)
    return options


def _check_size(progress: dict[str, Any], max_bytes: int) -> None:
    sizes = (progress.get("total_bytes"), progress.get("downloaded_bytes"))
    if (size := max(number or 0 for number in sizes)) > max_bytes:
        raise _TooLarge(
            f"{size / 1e6:.0f} MB or more, and --max-mb is {max_bytes / 1e6:.0f}"
        )


def _write_cut(path: Path, cut: Cut, settings: FetchSettings) -> tuple[Any, str]:
    """Write one segment; its status and the reason for that."""
    wanted_seconds = cut.end_seconds - cut.start_seconds
    try:
        pcm = load_segment(
            path,
            start_seconds=cut.start_seconds,
            end_seconds=cut.end_seconds,
            sample_rate=settings.sample_rate,
            is_recording=not settings.is_cut,
        )
    except ShardError as error:
        text = str(error).removeprefix(f"{path}: ")
        if " is neither the segment" in text:
            found = text.partition(" is neither")[0]
            return "gone", f"{found}, which ends before the segment"
        return "failed", plain(text, 300)
    data = encode(pcm, codec="flac", sample_rate=settings.sample_rate)
    write_atomic(settings.out / cut.file_name, data)
    seconds = len(pcm) / settings.sample_rate
    if seconds < wanted_seconds - SHORT_SECONDS:
        return "done", f"short: {seconds:.2f} of {wanted_seconds:.2f} s"
    return "done", ""
