"""How fast training examples come from a folder, with the trainer's own loader."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np

from psl.checkup.finding import Finding
from psl.data.config import LoaderConfig
from psl.data.loader import fetch_ahead
from psl.data.torch_datasets import open_chunks
from psl.distributed.runtime import default_threads
from shards.audio.members import encode
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.classes import Classes

RATE = 16000
CLIP_SECONDS, CHUNK_SECONDS = 10, 2.0
_NUM_CLIPS, _BATCH = 64, 32
_SECONDS = 1.5


def loader(folder: Path) -> Finding:
    """Chunks of 2 s per second, from FLAC clips of noise that were just written.

    They are in memory then: this is decoding and copying, which is what limits most
    loaders; psl.doctor's disk is the other half.
    """
    make_clips(folder)
    chunks = open_chunks(folder, chunk_seconds=CHUNK_SECONDS)
    rng = np.random.default_rng(0)

    def batch(number: int) -> int:
        rows = rng.integers(0, _NUM_CLIPS, _BATCH)
        waveform = chunks.read(rows, rng.integers(0, 5, _BATCH))["waveform"]
        return len(waveform)

    start, num_chunks = time.perf_counter(), 0
    for count in fetch_ahead(batch, itertools.count(), LoaderConfig()):
        num_chunks += count
        if time.perf_counter() - start > _SECONDS:
            break
    rate = num_chunks / (time.perf_counter() - start)
    text = (
        f"{rate:.0f} chunks of 2 s per second from FLAC, with {default_threads()} "
        "threads"
    )
    return Finding("loader", "ok", text, facts={"chunks_per_second": round(rate)})


def make_clips(folder: Path) -> None:
    """A dataset of noise."""
    rng = np.random.default_rng(0)
    builder = DatasetBuilder(
        folder=folder,
        kind="audio",
        classes=Classes(("/m/noise",), ("Noise",)),
        properties={"sample_rate": RATE, "codec": "flac"},
        provenance={},
    )
    builder.begin()
    count = CLIP_SECONDS * RATE
    noise = rng.normal(0, 1000, (8, count)).astype(np.int16)
    members = [encode(samples, codec="flac", sample_rate=RATE) for samples in noise]
    rows = [
        Row(f"noise{n}_0", "flac", members[n % 8], count, labels=(0,))
        for n in range(_NUM_CLIPS)
    ]
    builder.add("000000.tar", rows)
    builder.publish(["000000.tar"])
