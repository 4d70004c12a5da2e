"""What one process of the comparison with other libraries is asked to read.

Owns the list of ways, the packages that each needs, and what a reader has to be.
Imports none of the packages: a way's module is loaded in the process that tries it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SEED = 0
SHUFFLE_BUFFER = 1000
"""Clips, or chunks, of the buffers that shuffle a stream."""


@dataclass(frozen=True)
class Peer:
    """A way that people would pick, with a module of this folder."""

    name: str
    module: str
    needs: str
    """The module of its package, to see whether it is installed."""
    package: str
    """What to give to pip install."""
    holds: str
    """What it keeps on disk."""
    copies: str
    """Folder of its copy of the clips."""


_MDS, _ARROW = "chunks, MDS", "chunks, Arrow"
PEERS = (
    Peer("ours", "ours", "numpy", "numpy", "WAV in tars, an index", "ours"),
    Peer("webdataset", "wds", "webdataset", "webdataset", "the same tars", "wds"),
    Peer("mosaicml-streaming", "mds", "streaming", "mosaicml-streaming", _MDS, "mds"),
    Peer("litdata", "lit", "litdata", "litdata", "chunks, its files", "lit"),
    Peer("lhotse shar", "shar", "lhotse", "lhotse", "WAV in its tars", "shar"),
    Peer("datasets, map", "arrow", "datasets", "datasets", _ARROW, "arrow"),
    Peer("datasets, stream", "arrow_stream", "datasets", "datasets", _ARROW, "arrow"),
    Peer("DataLoader, files", "files", "soundfile", "soundfile", "WAV files", "files"),
    Peer("HDF5", "hdf5", "h5py", "h5py", "a dataset for each clip", "hdf5"),
)


def is_installed(peer: Peer) -> bool:
    """Whether the package of a way can be imported."""
    return importlib.util.find_spec(peer.needs) is not None


@dataclass(frozen=True)
class Task:
    """What to read, and as which rank."""

    audio: Path
    """Folder of the clips that tools/bench/contenders.py has made."""
    folder: Path
    """Folder for the way's own copy of them."""
    batch_size: int
    """Chunks of this rank in each step."""
    workers: int = 0
    """Processes (ours: threads) that read ahead; 0 for the caller alone."""
    rank: int = 0
    world_size: int = 1


class Reader(Protocol):
    """Reads batches without end, epoch after epoch, each in a new order."""

    def __init__(self, task: Task, state: Any = None) -> None:
        """``state`` is what state() of another process's reader has given."""

    def __iter__(self) -> Iterator[Any]:
        """Batches [B, N] of samples as int16, as int64, or as float32 in [-1, 1)."""

    def state(self) -> Any:
        """Where it stands after the batches given so far, picklable.

        None if the library has no such thing.
        """
