"""scores.npz: the scores and labels of an evaluation, by the key of each clip.

Owns the file. A file may come from anyone, so nothing in it is unpickled or
decompressed.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from psl.evaluation.labels import Labels
from psl.evaluation.score_tables import ScoreTable, as_table, clips_in_a_block
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
}
"""Names of the arrays besides the scores, the kind of their type, and dimensions."""


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
    labels, table = Labels.of(stored.targets), as_table(stored.scores)
    write_table(out, stored.key, stored.mids, labels, table)


def write_table(
    out: str | Path,
    key: np.ndarray,
    mids: Sequence[str],
    labels: Labels,
    scores: ScoreTable,
) -> None:
    """``out``/scores.npz, a block of ``scores`` [R, C] in memory at a time."""
    start = np.searchsorted(labels.clip, np.arange(labels.num_clips + 1))
    arrays = {
        "version": np.array([SCORES_VERSION], np.int32),
        "key": key,
        "mid": np.array([mid.encode() for mid in mids]),
        "label_start": start.astype(np.int64),
        "label": labels.label.astype(np.int32),
    }
    about = {"descr": "<f4", "fortran_order": False, "shape": scores.shape}
    with (
        open_atomic(Path(out, SCORES_NAME)) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
        with archive.open("scores.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, about)
            for _, block in scores.row_blocks():
                member.write(np.ascontiguousarray(block, "<f4").tobytes())


def read_scores(folder: str | Path) -> StoredScores:
    """The scores in ``folder``, or in a scores.npz itself; all in memory.

    Raises ShardError naming the file if it is missing, damaged, or another one.
    """
    with open_scores(folder) as stored:
        blocks = list(stored.blocks())
        targets = stored.labels.targets(0, len(stored.key))
        scores = np.concatenate([block for _, block in blocks])
        return StoredScores(stored.key, stored.mids, targets, scores)


@dataclass(frozen=True)
class OpenScores:
    """A file of scores that is being read; all but the scores is in memory."""

    key: np.ndarray
    """[R] bytes, each clip's key."""
    mids: tuple[str, ...]
    labels: Labels
    dtype: np.dtype
    """Of the scores."""
    blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]
    """Once: clips in their order, the first one's number and scores [b, C]."""


@contextlib.contextmanager
def open_scores(folder: str | Path) -> Iterator[OpenScores]:
    """The scores in ``folder``, or in a scores.npz itself, a block at a time.

    Raises ShardError naming the file if it is missing, damaged, or another one.
    """
    path = Path(folder, SCORES_NAME) if Path(folder).is_dir() else Path(folder)
    if not path.exists():
        raise ShardError(
            f"{path}: not found; expected the out folder of psl.evaluate "
            "(with store_scores=true)"
        )
    with open_regular(path) as stream, contextlib.ExitStack() as stack:
        with _naming_damage(path):
            archive = stack.enter_context(zipfile.ZipFile(stream))
            arrays = _read_arrays(archive)
            member = stack.enter_context(archive.open("scores.npy"))
            shape, is_by_class, dtype = _read_header(member)
            _check_arrays(arrays, shape)
        mids = tuple(mid.decode() for mid in arrays["mid"].tolist())

        def blocks() -> Iterator[tuple[int, np.ndarray]]:
            rows = _read_rows(member, shape, dtype, is_by_class=is_by_class)
            while True:
                with _naming_damage(path):
                    start, block = next(rows, (0, None))
                if block is None:
                    return
                _check_block(path, arrays["key"], start, block)
                yield start, block

        label_start = arrays["label_start"]
        labels = Labels.of_pairs(
            np.repeat(np.arange(shape[0]), np.diff(label_start)),
            arrays["label"],
            num_clips=shape[0],
            num_classes=shape[1],
        )
        yield OpenScores(arrays["key"], mids, labels, dtype, blocks)


@contextlib.contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Let what is wrong with the content of ``path`` be a ShardError."""
    try:
        yield
    except (
        *(zipfile.BadZipFile, EOFError, KeyError, OverflowError, RuntimeError),
        *(ValueError, NotImplementedError, SyntaxError, MemoryError),
    ) as error:
        raise ShardError(
            f"{path}: not a file of scores: {' '.join(str(error).split())[:200]}; "
            "evaluate again"
        ) from None


def _read_arrays(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """All but the scores, of the types and dimensions that they should have."""
    if any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist()):
        raise ValueError("an array is compressed, expected it as it is")
    arrays = {}
    for name, (kind, dimensions) in _KINDS.items():
        with archive.open(f"{name}.npy") as member:
            found = np.lib.format.read_array(member, allow_pickle=False)
        if found.dtype.kind != kind or found.ndim != dimensions:
            raise ValueError(f"{name} is {found.dtype} {found.shape}")
        arrays[name] = found
    return arrays


def _read_header(member: IO[bytes]) -> tuple[tuple[int, int], bool, np.dtype]:
    """Shape [R, C], whether class follows class, and type of the scores."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"scores are in version {version} of .npy, expected (1, 0)")
    shape, is_by_class, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.kind != "f" or len(shape) != 2:
        raise ValueError(f"scores is {dtype} {shape}")
    return (shape[0], shape[1]), is_by_class, dtype


def _check_arrays(arrays: dict[str, np.ndarray], shape: tuple[int, int]) -> None:
    """ValueError unless they fit each other and scores of ``shape``."""
    if arrays["version"].tolist() != [SCORES_VERSION]:
        raise ValueError(
            f"version {arrays['version'].tolist()}, expected [{SCORES_VERSION}]"
        )
    start, label = arrays["label_start"], arrays["label"]
    if (
        shape != (len(arrays["key"]), len(arrays["mid"]))
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


def _read_rows(
    member: IO[bytes], shape: tuple[int, int], dtype: np.dtype, *, is_by_class: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Clips in their order; all are read at once where class follows class."""
    step = shape[0] if is_by_class else clips_in_a_block(shape[1])
    for start in range(0, shape[0], step):
        number = min(step, shape[0] - start)
        data = member.read(number * shape[1] * dtype.itemsize)
        values = np.frombuffer(data, dtype)
        if is_by_class:
            yield start, np.ascontiguousarray(values.reshape(shape[::-1]).T)
        else:
            yield start, values.reshape(number, shape[1])
    if member.read(1):
        raise ValueError("scores are longer than they say")


def _check_block(path: Path, key: np.ndarray, start: int, block: np.ndarray) -> None:
    """ShardError naming the first score of a block [b, C] that is not finite."""
    if not np.isfinite(block).all():
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise ShardError(
            f"{path}: score of clip {key[start + row].decode()!r}, class {column} is "
            "not finite; evaluate again"
        )
