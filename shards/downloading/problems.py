"""What an exception of yt-dlp means for the segment, and for the whole download.

Owns the sorting; the wording stays yt-dlp's, in one line.
"""

from __future__ import annotations

import email.utils
import errno
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from shards.system.text import plain

Kind = Literal["gone", "failed", "blocked", "machine"]
"""``blocked``: the site wants fewer requests. ``machine``: nothing else would work."""

_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_GONE_STATUSES = (404, 410, 451)
_GONE = re.compile(
    r"video (is )?(unavailable|not available|private)|private video|"
    r"(has been|was) removed|been terminated|no longer available|does not exist|"
    r"violat\w+ youtube|copyright|account .* closed",
    re.IGNORECASE,
)
_MAY_COME_BACK = re.compile(
    r"\bcountry|\bregion|\blocation|\bage\b|log ?in|sign in", re.IGNORECASE
)
"""With cookies or a proxy, so not gone."""
_BLOCKED = re.compile(
    r"not a bot|too many requests|rate.?limit|try again later|unusual traffic",
    re.IGNORECASE,
)
_NOISE = re.compile(
    r"\x1b\[[\d;]*m|^ERROR: |; please report this issue.*|\s*Use --cookies.*|"
    r"\s*\(caused by .*|\s*See  ?https?://.*",
    re.DOTALL,
)
_MAX_CHARS = 300
MAX_WAIT_SECONDS = 900.0


@dataclass(frozen=True)
class Problem:
    """Why a video was not fetched."""

    kind: Kind
    reason: str
    wait_seconds: float | None = None
    """What a server that blocks asks for, at most MAX_WAIT_SECONDS."""


def explain(error: BaseException, *, secret: str | None = None) -> Problem:
    """What ``error`` of yt-dlp, or of writing a file, means.

    ``secret``, as a proxy with its password, is left out of the reason.
    """
    text = _NOISE.sub("", str(error)).strip() or type(error).__name__
    if secret:
        text = text.replace(secret, "PROXY")
    reason = plain(" ".join(text.split()), _MAX_CHARS)
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _MACHINE:
            return Problem("machine", reason)
        status = getattr(cause, "status", None)
        if status == 429:
            return Problem("blocked", "HTTP 429, too many requests", _wait(cause))
        if status in _GONE_STATUSES:
            return Problem("gone", f"HTTP {status}")
    if any(f"[Errno {number}]" in text for number in _MACHINE):
        return Problem("machine", reason)
    if _BLOCKED.search(text) or re.search(r"HTTP Error 429\b", text):
        return Problem("blocked", reason)
    is_gone = _GONE.search(text) and not _MAY_COME_BACK.search(text)
    return Problem("gone" if is_gone else "failed", reason)


def _causes(error: BaseException) -> Iterator[Any]:
    """``error`` and what yt-dlp wrapped in it, outermost first."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        found = todo.pop(0)
        if found is None or found in seen:
            continue
        seen.append(found)
        yield found
        info = getattr(found, "exc_info", None)
        todo += [info[1] if isinstance(info, tuple) and len(info) == 3 else None]
        todo += [getattr(found, "cause", None), found.__cause__, found.__context__]


def _wait(error: Any) -> float | None:
    """Seconds that the header Retry-After asks for."""
    try:
        text = error.response.headers.get("Retry-After")
    except AttributeError:
        return None
    if not text:
        return None
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return min(float(text), MAX_WAIT_SECONDS)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, until - time.time()), MAX_WAIT_SECONDS)
