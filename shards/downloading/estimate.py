"""What a download would take: bytes, hours and disk.

Owns the assumptions, which the ledger's measurements replace once there are some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shards.downloading.job import Pace, State
from shards.downloading.video import FetchSettings
from shards.downloading.wanted import Video

MIN_MEASURED = 20
"""Videos in the ledger from which their mean is believed."""
ASSUMED_BYTES = 4_000_000
"""Of a video: four minutes at 128 kbit/s. A guess, and said to be one."""
ASSUMED_SECONDS = 10.0
"""To fetch a video and cut it. A guess as well."""


def estimate(
    state: State, videos: Sequence[Video], settings: FetchSettings, pace: Pace
) -> dict[str, Any]:
    """Bytes to fetch, bytes on disk (at most) and hours, and what they rest on."""
    done = [r for r in state.records.values() if r.status == "done" and r.bytes]
    is_measured = len(done) >= MIN_MEASURED
    num_bytes: float = ASSUMED_BYTES
    seconds = ASSUMED_SECONDS
    if is_measured:
        num_bytes = sum(record.bytes for record in done) / len(done)
        seconds = sum(record.seconds for record in done) / len(done)
    if settings.bytes_per_second is not None:
        seconds = max(seconds, num_bytes / settings.bytes_per_second)
    cuts = [cut for video in videos for cut in video.cuts]
    audio_seconds = sum(cut.end_seconds - cut.start_seconds for cut in cuts)
    hours = len(videos) * (seconds + pace.sleep_seconds) / pace.jobs / 3600
    return {
        "videos": len(videos),
        "bytes_to_fetch": round(len(videos) * num_bytes),
        "bytes_on_disk_at_most": round(audio_seconds * settings.sample_rate * 2),
        "hours": round(hours, 2),
        "rests_on": f"{len(done)} segments in the ledger"
        if is_measured
        else f"guesses: {ASSUMED_BYTES / 1e6:g} MB and {ASSUMED_SECONDS:g} s a video",
    }


def words(numbers: dict[str, Any]) -> str:
    """The estimate in a line."""
    return (
        f"to fetch: {numbers['videos']} videos, about "
        f"{numbers['bytes_to_fetch'] / 1e9:.3g} GB; on disk at most "
        f"{numbers['bytes_on_disk_at_most'] / 1e9:.3g} GB; about "
        f"{numbers['hours']:.3g} hours (by {numbers['rests_on']})"
    )
