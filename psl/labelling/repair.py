"""Finished label sets that lost shards: found, and opened again for the job to fill.

Owns the check of a finished set, and that one process at a time makes it.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from psl.labelling.unlabelled import REPORT_NAME
from shards.dataset.writer import DatasetBuilder
from shards.format.index import INDEX_NAME, Index, read_index
from shards.format.meta import ShardRecord
from shards.system.claims import Claim, Claims
from shards.system.files import file_sha256, read_plain

_log = logging.getLogger(__name__)

MAX_REPORT_BYTES = 1 << 30
"""A longer unlabelled.csv is refused."""
WAIT_SECONDS = 0.5
"""Between looks whether another process has finished its check."""


def reopen_damaged(
    builder: DatasetBuilder, *, lease_seconds: float, is_stopped: Callable[[], bool]
) -> dict[str, str]:
    """Open a finished set again if tars are missing or damaged.

    The job then makes these shards, and no others. One process reads all tars; those
    that come meanwhile wait for it, and look at sizes only. Returns the sha256 that
    the index had for each bad shard; empty if all is well, or nothing is finished.

    Raises ShardError if the set was made with other settings, OSError if it is damaged
    and cannot be written.
    """
    if not builder.is_published():
        return {}
    with builder.unless_published():
        builder.check_settings(read_index(builder.folder, kind="labels"))
    try:
        builder.parts_folder.mkdir(exist_ok=True)
    except OSError:  # it is somebody else's; begin() looks at its sizes
        return {}
    with (
        builder.unless_published(),
        Claims(builder.parts_folder, lease_seconds=lease_seconds) as claims,
    ):
        contents = True
        while builder.is_published() and not is_stopped():
            if (claim := claims.take(INDEX_NAME)) is not None:
                return _check(builder, claims, claim, contents, is_stopped)
            contents = False
            time.sleep(WAIT_SECONDS)
    return {}


def _check(
    builder: DatasetBuilder,
    claims: Claims,
    claim: Claim,
    contents: bool,
    is_stopped: Callable[[], bool],
) -> dict[str, str]:
    """What reopen_damaged does while no other process does."""
    try:
        index = read_index(builder.folder, kind="labels")
        bad = _find_bad(builder.folder, index, contents, is_stopped, claims)
        if bad and not is_stopped():
            claim.check()
            whole = {shard.name for shard in index.shards} - bad.keys()
            builder.reopen(index, whole, _notes(builder.folder, index))
        return bad
    finally:
        claim.release()


def _find_bad(
    folder: Path,
    index: Index,
    contents: bool,
    is_stopped: Callable[[], bool],
    claims: Claims,
) -> dict[str, str]:
    """The sha256 of each shard that is missing or damaged, and a line for each."""
    bad = {}
    title = f"check {folder.name}"
    for shard in tqdm(index.shards, desc=title, unit="shard", disable=not contents):
        if is_stopped():
            break
        claims.progress()
        if (problem := _problem(folder / shard.name, shard, contents)) is not None:
            _log.warning("%s: %s; it is made again", folder / shard.name, problem)
            bad[shard.name] = shard.sha256
    return bad


def _problem(path: Path, shard: ShardRecord, contents: bool) -> str | None:
    """What is wrong with a tar, if anything is."""
    if not path.is_file():
        return "missing"
    if (size := path.stat().st_size) != shard.num_bytes:
        return f"{size} bytes, expected {shard.num_bytes}"
    if contents and file_sha256(path) != shard.sha256:
        return "bytes differ from the sha256 in the index"
    return None


def say_what_changed(folder: Path, lost: dict[str, str]) -> None:
    """Say which shards, lost with the sha256 given, have other bytes now."""
    index = read_index(folder, kind="labels")
    changed = [s.name for s in index.shards if lost.get(s.name, s.sha256) != s.sha256]
    if changed:
        _log.warning(
            "%s: %d of %d lost shards came out with other bytes (such as %s), as on "
            "another machine or with other versions; runs that used the labels will "
            "refuse to resume with these",
            *(folder, len(changed), len(lost), changed[0]),
        )


def _notes(folder: Path, index: Index) -> dict[str, list[list[str]]]:
    """The clips without labels, as their records noted them, by shard."""
    notes: dict[str, list[list[str]]] = defaultdict(list)
    if not (index.table.count == 0).any():
        return notes
    reasons = {}
    if (folder / REPORT_NAME).exists():
        text = read_plain(folder, REPORT_NAME, max_bytes=MAX_REPORT_BYTES).decode()
        reasons = {row[0]: row for row in csv.reader(io.StringIO(text)) if row}
    for row in (index.table.count == 0).nonzero()[0].tolist():
        key = index.key(row)
        note = reasons.get(key, [key, "unlabelled", "reason lost"])
        notes[index.shards[index.table.shard[row]].name].append(note)
    return notes
