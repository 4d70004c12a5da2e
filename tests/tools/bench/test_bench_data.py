"""Runs tools/bench/data.py on a few clips, and checks what its contenders read."""

from __future__ import annotations

import hashlib
import importlib
import io
import itertools
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from tests.learning import REPOSITORY
from tools.bench import data

NUM_CLIPS, NUM_BATCHES, CHUNK = 32, 5, 32000  # 5 chunks of 2 s a clip, 32 a batch


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """tools/bench/contenders.py."""
    return importlib.import_module("tools.bench.contenders")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's clips are made."""
    return tmp_path_factory.mktemp("bench")


def members(folder: Path) -> list[bytes]:
    """The audio files in the tars, read by tarfile."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if not member.name.endswith(".json"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found.append(stream.read())
    return found


def test_every_way_of_reading_gives_each_chunk_once(
    bench: ModuleType, folder: Path
) -> None:
    """The table would compare ways of reading that do not do the same work."""
    codecs = ("wav", "flac", "opus")
    audio = bench.make_audio(folder, source=None, num_clips=NUM_CLIPS, codecs=codecs)
    files = members(folder / "wav")
    clips = [soundfile.read(io.BytesIO(file), dtype="int16")[0] for file in files]
    chunks = np.concatenate(clips).reshape(-1, CHUNK)
    assert len(chunks) == NUM_CLIPS * 5
    expected = Counter(chunk.tobytes() for chunk in chunks)
    assert set(expected.values()) == {1}
    ways = {way.name: way for way in bench.contenders(audio)}
    plain = b"".join(map(bytes, ways.pop("plain read").read(NUM_BATCHES)))
    tars = b"".join(path.read_bytes() for path in sorted(folder.glob("wav/*.tar")))
    assert plain[: len(tars)] == tars
    for name in ("SHA-256, 1 thread", "SHA-256, 2 threads"):
        digests = Counter(
            itertools.chain.from_iterable(ways.pop(name).read(NUM_BATCHES))
        )
        assert digests == {hashlib.sha256(file).digest(): 5 for file in files}
    for name, way in ways.items():
        batches = [np.asarray(batch) for batch in way.read(NUM_BATCHES)]
        assert [batch.shape for batch in batches] == [(32, CHUNK)] * NUM_BATCHES, name
        if batches[0].dtype == np.float32:
            batches = [(batch * 32768).astype(np.int16) for batch in batches]
        found = np.concatenate(batches)
        assert found.dtype == np.int16
        if name == "ours, opus":  # lossy: each chunk's nearest is what it was made of
            lossy = Counter(chunk.tobytes() for chunk in found)
            found = chunks[[nearest(chunk, chunks) for chunk in found]]
        wanted = lossy if name.startswith("ours, opus, ") else expected
        assert Counter(chunk.tobytes() for chunk in found) == wanted, name
    assert len(ways) == 13


def nearest(chunk: np.ndarray, chunks: np.ndarray) -> int:
    """Which of ``chunks`` is nearest, and not far; by the first quarter second."""
    errors = chunks[:, :4000].astype(np.float32) - chunk[:4000]
    powers = (errors**2).mean(axis=1)
    best = int(powers.argmin())
    assert powers[best] < 0.5 * (chunks[best, :4000].astype(np.float32) ** 2).mean()
    return best


def run_tool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What ``python -m tools.bench.data`` says on few clips for little time."""
    command = [sys.executable, "-m", "tools.bench.data", "--folder", str(folder)]
    quick = ["--rounds", "1", "--seconds", "0.02"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [*command, *quick, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


def test_too_few_clips_for_a_batch_are_refused() -> None:
    """Libraries that begin again with each epoch would never find a batch."""
    message = "60 chunks do not fill 2 batches of 32; take 13 clips of 10 s or more"
    with pytest.raises(ValueError, match=message):
        data.check_enough(60, num_batches=2)
    data.check_enough(64, num_batches=2)


@pytest.mark.slow
def test_the_tool_prints_its_command_and_both_tables(folder: Path) -> None:
    """A result in the docs could not be made again, or would lack a row."""
    done = run_tool(folder, "--clips", str(NUM_CLIPS))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tools.bench.data --folder" in done.stdout and "h5py " in done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line[:1] == "|"]
    names = [row[0].strip("| ") for row in rows]
    assert names[2:6] == ["plain read", "HDF5", "HDF5, 2 workers", "webdataset"]
    assert names[-7] == "ours, wav, first epoch"
    assert names[-4:] == ["wav", "flac", "opus", "(SHA-256)"]
    by_name = dict(zip(names, rows, strict=True))
    assert by_name["plain read"][5] == "1.000 (1.00-1.00)"
    assert by_name["HDF5"][3:5] == ["1.00", "1.00"]
    assert by_name["wav"][1:3] == ["320044", "1.000"]
    assert 10_000 < int(by_name["opus"][1]) < int(by_name["flac"][1]) < 320_044

    refused = run_tool(folder, "--clips", "3")
    assert refused.returncode == 78
    assert "num_clips = 32, not 3" in refused.stderr
