"""AudioSet's own lists: segments, classes, strong labels, ontology.

Owns where they are published and how they are known to be whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ShardError
from shards.remote.places import RetryPolicy, check_place, is_url, join_place, read_url
from shards.remote.transport import Stall
from shards.system.files import file_sha256, read_bounded, sha256_of, write_atomic

_GOOGLE = "https://storage.googleapis.com/us_audioset/youtube_corpus"
_GITHUB = "https://raw.githubusercontent.com/audioset/ontology/master"
_MAX_BYTES = 512 << 20
RETRY = RetryPolicy(attempts=5, longest_delay_seconds=8.0, stall=Stall(seconds=20.0))


@dataclass(frozen=True)
class PublishedList:
    """A file of AudioSet."""

    folder: str
    """URL that it is in."""
    file: str
    start: str
    """Regular expression of what it begins with."""
    sha256: str | None = None
    """None where we never had the file; then only its beginning is checked."""


_SEGMENTS = r"# Segments csv created .*\n# num_ytids=.*\n# YTID,"
_EVENTS = r"segment_id\tstart_time_seconds\tend_time_seconds\tlabel"
LISTS = {
    "balanced_train": PublishedList(
        f"{_GOOGLE}/v1/csv",
        "balanced_train_segments.csv",
        _SEGMENTS,
        "3b83e5ff9ed72cfda37d4e36ce08250e107c1ea70f109f6ab6668ac200db5e94",
    ),
    "unbalanced_train": PublishedList(
        f"{_GOOGLE}/v1/csv", "unbalanced_train_segments.csv", _SEGMENTS
    ),
    "eval": PublishedList(
        f"{_GOOGLE}/v1/csv",
        "eval_segments.csv",
        _SEGMENTS,
        "f7055f53935f70e74e39494a5c8c4c78f1700fce275028bd36e31186f33d45db",
    ),
    "class_labels": PublishedList(
        f"{_GOOGLE}/v1/csv",
        "class_labels_indices.csv",
        "index,mid,display_name",
        "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429",
    ),
    "strong_train": PublishedList(
        f"{_GOOGLE}/strong", "audioset_train_strong.tsv", _EVENTS
    ),
    "strong_eval": PublishedList(
        f"{_GOOGLE}/strong", "audioset_eval_strong.tsv", _EVENTS
    ),
    "strong_classes": PublishedList(
        f"{_GOOGLE}/strong", "mid_to_display_name.tsv", r"/[a-z]/\w+\t"
    ),
    "ontology": PublishedList(
        _GITHUB,
        "ontology.json",
        r"\[\s*\{",
        "9c685f4403eecc3ca9be37fd7285cf212feaaea6ff7229d3e7ca89e0d1f2d15d",
    ),
}
"""By the name that ``--lists`` takes."""


def fetch_list(
    name: str,
    out: Path,
    *,
    place: str | None = None,
    check_hash: bool = True,
    retry: RetryPolicy = RETRY,
) -> str:
    """Have the list ``name`` in the folder ``out``; one line that says so.

    From the folder or URL ``place``, else from where AudioSet has it. Raises ShardError
    if what comes is not this list, JobError if nothing comes.
    """
    published = LISTS[name]
    path = out / published.file
    if _is_here(path, published):
        return f"{path}: is here"
    source = join_place(check_place(place or published.folder), published.file)
    if is_url(source):
        data = read_url(source, max_bytes=_MAX_BYTES, retry=retry)
    else:
        data = read_bounded(source, _MAX_BYTES)
    _check(data, published, source, check_hash=check_hash)
    write_atomic(path, data)
    checked = (
        "sha256 as expected"
        if published.sha256 == sha256_of(data)
        else ("its hash was not checked")
    )
    return f"{path}: {len(data)} bytes from {source}, {checked}"


def _is_here(path: Path, published: PublishedList) -> bool:
    if not path.exists():
        return False
    return published.sha256 is None or file_sha256(path) == published.sha256


def _check(
    data: bytes, published: PublishedList, source: str, *, check_hash: bool
) -> None:
    head = data[:2000].decode("utf-8-sig", "replace").lstrip()
    if not re.match(published.start, head.replace("\r\n", "\n")):
        raise ShardError(
            f"{source}: begins with {head[:40]!r}; expected {published.file} of "
            "AudioSet; get it in another way and name its folder with --lists-from"
        )
    if check_hash and published.sha256 not in (None, sha256_of(data)):
        raise ShardError(
            f"{source}: sha256 is {sha256_of(data)}, expected {published.sha256}, that "
            "of the first edition; fetch it again, or take this one with --any-edition"
        )
