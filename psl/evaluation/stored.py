"""scores.npz: the scores and labels of an evaluation, by the key of each clip.

Owns the file. A file may come from anyone, so nothing in it is unpickled or
decompressed.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.errors import ShardError
from shards.system.files import open_atomic, open_regular

SCORES_NAME = "scores.npz"
SCORES_VERSION = 1
_KINDS = {
    "version": ("i", 1),
    "key": ("S", 1),
    "mid": ("S", 1),
    "label_start": ("i", 1),
    "label": ("i", 1),
    "scores": ("f", 2),
}
"""Names of the arrays, the kind of their type, and their dimensions."""


@dataclass(frozen=True)
class StoredScores:
    """What a model said of clips, and what is in them."""

    key: np.ndarray
    """[R] bytes, each clip's key."""
    mids: tuple[str, ...]
    """The classes, in the order of the columns."""
    targets: np.ndarray
    """[R, C] bool."""
    scores: np.ndarray
    """[R, C] float32."""


def write_scores(out: str | Path, stored: StoredScores) -> None:
    """``out``/scores.npz."""
    _, label = np.nonzero(stored.targets)
    start = np.append(0, np.cumsum(stored.targets.sum(axis=1)))
    with open_atomic(Path(out, SCORES_NAME)) as stream:
        np.savez(
            stream,
            version=np.array([SCORES_VERSION], np.int32),
            key=stored.key,
            mid=np.array([mid.encode() for mid in stored.mids]),
            label_start=start.astype(np.int64),
            label=label.astype(np.int32),
            scores=stored.scores.astype(np.float32, copy=False),
        )


def read_scores(folder: str | Path) -> StoredScores:
    """The scores in ``folder``, or in a scores.npz itself.

    Raises ShardError naming the file if it is missing, damaged, or another one.
    """
    path = Path(folder, SCORES_NAME) if Path(folder).is_dir() else Path(folder)
    if not path.exists():
        raise ShardError(
            f"{path}: not found; expected the out folder of psl.evaluate "
            "(with store_scores=true)"
        )
    try:
        arrays = _read_arrays(path)
    except (
        *(zipfile.BadZipFile, EOFError, KeyError, OverflowError, RuntimeError),
        *(ValueError, NotImplementedError, SyntaxError, MemoryError),
    ) as error:
        raise ShardError(
            f"{path}: not a file of scores: {' '.join(str(error).split())[:200]}; "
            "evaluate again"
        ) from None
    keys, scores = arrays["key"], arrays["scores"]
    start, label = arrays["label_start"], arrays["label"]
    targets = np.zeros(scores.shape, np.bool_)
    targets[np.repeat(np.arange(len(keys)), np.diff(start)), label] = True
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ShardError(
            f"{path}: score of clip {keys[row].decode()!r}, class {column} is not "
            "finite; evaluate again"
        )
    mids = tuple(mid.decode() for mid in arrays["mid"].tolist())
    return StoredScores(keys, mids, targets, scores)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file, of the types and shapes that they should have."""
    with open_regular(path) as stream:
        with zipfile.ZipFile(stream) as archive:
            if any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist()):
                raise ValueError("an array is compressed, expected it as it is")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as found:
            arrays = {name: found[name] for name in _KINDS}
    for name, (kind, dimensions) in _KINDS.items():
        if arrays[name].dtype.kind != kind or arrays[name].ndim != dimensions:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
    if arrays["version"].tolist() != [SCORES_VERSION]:
        raise ValueError(
            f"version {arrays['version'].tolist()}, expected [{SCORES_VERSION}]"
        )
    shape = len(arrays["key"]), len(arrays["mid"])
    start, label = arrays["label_start"], arrays["label"]
    if (
        arrays["scores"].shape != shape
        or not all(shape)
        or len(start) != shape[0] + 1
        or start[0] != 0
        or (np.diff(start) < 0).any()
        or start[-1] != len(label)
        or (len(label) and not 0 <= label.min() <= label.max() < shape[1])
    ):
        raise ValueError("its arrays do not fit each other")
    if len(np.unique(arrays["key"])) < shape[0]:
        raise ValueError("a key is in it twice")
    return arrays
