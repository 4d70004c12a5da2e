"""The comparison with other libraries: the same chunks, and verdicts by trial."""

from __future__ import annotations

import importlib
import io
import itertools
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.needs import OPTIONAL
from tools.bench.contenders import make_audio
from tools.bench.peers import table
from tools.bench.peers.compare import Result, Trials
from tools.bench.peers.task import PEERS, Peer, Task, is_installed

NUM_CLIPS, CHUNK = 32, 32000  # 5 chunks of 2 s a clip: 5 batches of 32
IN_CI = ("ours", "webdataset", "DataLoader, files", "HDF5")


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of the module."""
    folder = tmp_path_factory.mktemp("peers")
    make_audio(folder, source=None, num_clips=NUM_CLIPS, codecs=("wav",))
    return folder


def chunks_by_tarfile(audio: Path) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for path in sorted(audio.glob("wav/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".wav"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    clip, _ = soundfile.read(io.BytesIO(stream.read()), dtype="int16")
                    found.update(part.tobytes() for part in clip.reshape(-1, CHUNK))
    return found


def test_what_ci_has_is_installed() -> None:
    """Every comparison would be skipped, and nobody would see."""
    assert all(is_installed(peer) for peer in PEERS if peer.name in IN_CI)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_way_gives_each_chunk_once_an_epoch_in_an_order_of_its_own(
    peer: Peer, audio: Path
) -> None:
    """The table would compare libraries that do not do the same work."""
    if not is_installed(peer):
        pytest.skip(f"{OPTIONAL}{peer.name}: pip install {peer.package}")
    Trials(audio, batch=32, seconds=0).prepare(peer)
    module = importlib.import_module(f"tools.bench.peers.{peer.module}")
    reader = module.Reader(Task(audio, audio / "peers" / peer.copies, batch_size=32))
    batches = [np.asarray(batch) for batch in itertools.islice(iter(reader), 5)]
    if batches[0].dtype == np.float32:
        batches = [np.round(batch * 32768) for batch in batches]
    batches = [batch.astype(np.int16) for batch in batches]  # some give int64
    expected = chunks_by_tarfile(audio)
    assert len(expected) == NUM_CLIPS * 5
    found = Counter(chunk.tobytes() for batch in batches for chunk in batch)
    assert found == expected
    assert [chunk.tobytes() for chunk in batches[0]] != list(expected)[:32]


def test_verdicts_come_from_processes_that_stopped_and_went_on(audio: Path) -> None:
    """We would print what a library claims of itself, or what we claim of ours."""
    trials = Trials(audio, batch=32, seconds=0)
    by_name = {peer.name: peer for peer in PEERS}
    whole = trials.whole(by_name["ours"], 4)
    assert trials.resume(by_name["ours"], whole) == "exact, from its state"
    assert trials.other_world(by_name["ours"], whole) == "the same"
    whole[1], whole[2] = whole[2], whole[1]
    told = trials.resume(by_name["ours"], whole)
    assert told.startswith("from its state batch 1 after the resume is another")


def test_a_failing_way_is_told_with_its_last_words(audio: Path) -> None:
    """One broken package would hide the figures of all others."""
    peer = Peer("lost", "files", "soundfile", "soundfile", "nothing", "lost")
    with pytest.raises(RuntimeError, match=r"wav"):
        Trials(audio, batch=32, seconds=0.1).speed(peer, 0)


def test_the_tables_have_ratios_within_a_round_and_name_what_is_missing() -> None:
    """A clock that moves between rounds would decide who is first."""

    def turn(first: float, rate: float) -> dict[str, float]:
        keys = ("cpu_microseconds_per_chunk", "private_bytes")
        return {
            "first_batch_seconds": first,
            "chunks_per_second": rate,
        } | dict.fromkeys(keys, 5e6)

    ours = Result("ours", "tars", speeds={0: [turn(0.01, 900), turn(0.02, 300)]})
    peer = Result("peer", "files", speeds={0: [turn(0.03, 300), turn(0.08, 50)]})
    lost = Result("lost", "chunks", problem="not installed: pip install lost")
    lines = table.speed_table([ours, peer, lost])
    assert lines[3].startswith(
        "| peer | files | 0 | 55 | 3.5 (3.0-4.0) | 175 | 4.5 (3.0-6.0) |"
    )
    assert lines[4] == (
        "| lost | chunks | not installed: pip install lost | | | | | | |"
    )
    assert table.trial_table([lost])[2] == (
        "| lost | not installed: pip install lost | not installed: pip install lost |"
    )
