"""Tars of others, named as people name them: folders, lists, ``{000..123}``, URLs.

Owns the expansion of braces and the download of tars at a URL. Names are never given
to a shell or to webdataset's gopen: ``pipe:`` and rewriting by GOPEN_REWRITE do not
exist here.
"""

from __future__ import annotations

import itertools
import os
import re
import urllib.parse
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import braceexpand
from tqdm import tqdm

from shards.errors import ShardError
from shards.remote.places import RetryPolicy, check_place, download, is_url
from shards.system.files import open_atomic

MAX_PLACES = 1_000_000
"""Places that a pattern may expand to."""
NUM_DOWNLOADS = 4
"""Tars that are fetched at a time."""

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")


def expand_braces(places: Iterable[str | Path]) -> list[str]:
    """Each place, with ``{000..123}`` and ``{a,b}`` expanded as bash does.

    A local file or folder whose own name has braces is itself. Raises ShardError for
    unbalanced braces and for more than MAX_PLACES places.
    """
    expanded: list[str] = []
    for place in map(str, places):
        if "{" not in place or (not is_url(place) and os.path.exists(place)):
            expanded.append(place)
            continue
        try:
            expanded += _expand(place)
        except ValueError as error:
            raise ShardError(
                f"{place}: {error}; expected a pattern such as x-{{000..123}}.tar"
            ) from None
    return expanded


def _expand(pattern: str) -> list[str]:
    """ValueError for unbalanced braces and too many places."""
    # braceexpand lists a whole range before it gives the first place
    too_many = ValueError(f"more than {MAX_PLACES} places")
    if any(abs(int(a) - int(b)) > MAX_PLACES for a, b in _RANGE.findall(pattern)):
        raise too_many
    places = braceexpand.braceexpand(pattern, escape=False)
    found = list(itertools.islice(places, MAX_PLACES + 1))
    if len(found) > MAX_PLACES:
        raise too_many
    return found


def local_places(
    places: Iterable[str | Path],
    downloads: str | Path | None,
    *,
    retry: RetryPolicy | None = None,
) -> list[Path]:
    """Local paths of ``places``, with braces expanded and URLs fetched.

    What is at ``http://host/a/x.tar`` is kept as ``downloads``/host/a/x.tar, and not
    fetched again if it is there. Raises ShardError if a URL is malformed or not found,
    or there is no ``downloads`` for it, JobError if a server does not answer.
    """
    expanded = [check_place(place) for place in expand_braces(places)]
    urls = dict.fromkeys(filter(is_url, expanded))
    if urls and downloads is None:
        raise ShardError(
            f"{next(iter(urls))}: name a folder to keep tars of URLs in, with "
            "--downloads DIR"
        )
    paths = {url: _path_of(url, Path(downloads or "")) for url in urls}
    missing = [url for url in urls if not paths[url].exists()]

    def fetch(url: str) -> None:
        with open_atomic(paths[url]) as stream:
            download(url, stream, None, retry=retry or RetryPolicy())

    with ThreadPoolExecutor(NUM_DOWNLOADS) as pool:
        jobs = pool.map(fetch, missing)
        for _ in tqdm(jobs, "download", len(missing), unit="tar", disable=not missing):
            pass
    return [paths.get(place, Path(place)) for place in expanded]


def _path_of(url: str, downloads: Path) -> Path:
    """Where the file at a checked URL is kept."""
    parts = url.partition("://")[2].split("/")
    if url.startswith("http"):
        parts = [urllib.parse.unquote(part) for part in parts]
    bad = {"", ".", ".."} & set(parts) or any(set(part) & set("/\0") for part in parts)
    if bad or not url.endswith(".tar"):
        raise ShardError(f"{url}: expected the URL of a .tar; patterns name several")
    return downloads.joinpath(*parts)


def common_home(places: Iterable[str | Path]) -> str:
    """The one folder or URL that holds all ``places``, which are tars or one folder.

    Raises ShardError if they lie in several.
    """
    homes = dict.fromkeys(
        place if os.path.isdir(place) else place.rpartition("/")[0] or "."
        for place in map(check_place, expand_braces(places))
    )
    if len(homes) > 1:
        raise ShardError(
            f"{', '.join(list(homes)[:3])}: tars of several folders; adopt each folder "
            "for itself, and name the datasets together"
        )
    return next(iter(homes))
