"""A dataset folder that several processes fill: whose settings hold, whose shards."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import writer
from shards.dataset.writer import DatasetBuilder, Row
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.label_codec import encode_labels
from shards.system.files import create_atomic
from tests.conftest import MIDS
from tests.learning import folder_bytes

NAMES = [f"{number:06d}.tar" for number in range(3)]


def builder(folder: Path, teacher: str) -> DatasetBuilder:
    """One of labels by ``teacher``."""
    return DatasetBuilder(
        folder, "labels", Classes(MIDS, MIDS), {}, {"teacher": teacher}
    )


def add(made: DatasetBuilder, names: list[str], value: float) -> None:
    """Write shards of one clip whose labels are all ``value``."""
    data = encode_labels(np.full((1, 3), value))
    for name in names:
        made.add(name, [Row(f"clip-{name[:6]}", "npy", data, 1)])


def test_of_two_that_begin_at_one_moment_with_other_settings_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would label on, and the set hold shards of two teachers that look alike.

    Both are held where they have found nothing and are about to write their settings.
    """
    both_found_nothing = threading.Barrier(2, timeout=60)
    create = writer.create_atomic

    def create_together(path: Path, data: str) -> None:
        both_found_nothing.wait()
        create(path, data)

    monkeypatch.setattr(writer, "create_atomic", create_together)

    def begin(teacher: str) -> str | None:
        try:
            assert builder(folder, teacher).begin()
        except ShardError as error:
            return str(error)
        return None

    for number in range(20):
        folder = tmp_path / str(number)
        with ThreadPoolExecutor(2) as pool:
            refused = list(pool.map(begin, ["a", "b"]))
        winner, loser = ("a", "b") if refused[0] is None else ("b", "a")
        (message,) = [text for text in refused if text]
        assert f"made with teacher = {winner!r}, not {loser!r}" in message
        assert builder(folder, winner).begin()
        assert os.listdir(folder / ".parts") == ["settings.json"]


def test_only_the_first_makes_a_file_and_a_disk_without_links_still_has_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that were agreed on would change, or a memory card refuse them."""
    path = tmp_path / "new" / "file"
    create_atomic(path, "first")
    create_atomic(path, "second")
    assert path.read_text() == "first" and os.listdir(path.parent) == ["file"]

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    create_atomic(tmp_path / "other" / "file", "whole")
    assert (tmp_path / "other" / "file").read_text() == "whole"
    assert os.listdir(tmp_path / "other") == ["file"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        create_atomic(tmp_path / "full" / "file", "whole")
    assert not os.listdir(tmp_path / "full")


def test_a_shard_recorded_under_other_settings_is_not_published(tmp_path: Path) -> None:
    """Where the last settings win, as without hard links, shards of both would mix."""
    late = builder(tmp_path / "out", "late")
    add(builder(tmp_path / "out", "early"), NAMES[:1], 0.25)  # of the same size
    assert late.begin()
    assert late.recorded() == {NAMES[0]} and late.part(NAMES[0]) is None
    add(late, NAMES[1:], 0.75)
    assert not late.publish(NAMES)
    add(late, NAMES[:1], 0.75)
    assert late.publish(NAMES)
    alone = builder(tmp_path / "alone", "late")
    assert alone.begin()
    add(alone, NAMES, 0.75)
    assert alone.publish(NAMES)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "alone")


def test_who_begins_while_a_rival_of_other_settings_publishes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say that labels of its teacher are complete, which are another's."""
    rival = builder(tmp_path, "rival")
    assert rival.begin()
    add(rival, NAMES, 0.5)

    finished = DatasetBuilder.finished

    def publish_after(found: DatasetBuilder) -> bool:
        result = finished(found)
        rival.publish(NAMES)
        return result

    monkeypatch.setattr(DatasetBuilder, "finished", publish_after)
    with pytest.raises(ShardError, match="teacher = 'rival', not 'own'"):
        builder(tmp_path, "own").begin()
    assert len(open_index(tmp_path, kind="labels")) == 3
