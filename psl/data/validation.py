"""The clips on which a run is validated, and which it holds out from training.

Owns what ``data.valid`` means: a dataset of its own, a part of the training clips that
is held out, or, as upstream does, the training clips themselves.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import numpy as np

from psl.data.checks import check_has_labels
from shards.format.index import Index, open_index
from shards.format.ontology import with_ancestors

_log = logging.getLogger(__name__)

FEW_CLIPS = 5
"""With a class, below which a line warns of them."""
HELD_OUT, TRAIN = "held_out", "train"
_SALT = b"psl held out 1 "
"""Decides which recordings are held out; another would be another split."""


@dataclass(frozen=True)
class Validation:
    """Clips that choose the best checkpoint."""

    index: Index
    """The dataset they are in."""
    rows: np.ndarray
    """[V] int64, ascending: which of its clips."""
    meaning: str
    """What was validated on, for result.json and messages."""

    @property
    def fingerprint(self) -> str:
        """Equal for two runs exactly if they are validated on the same clips."""
        if len(self.rows) == len(self.index):
            return self.index.fingerprint
        digest = hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()
        return f"{self.index.fingerprint}[{digest}]"


def open_validation(
    valid: str, held_out_share: float, audio: Index, *, ontology: str | None = None
) -> Validation:
    """The clips that ``valid`` names; ``audio`` are those there are to train on.

    ``ontology`` adds ancestors to the labels of a dataset of its own.

    Raises ShardError or ValueError if that is not a dataset, or has no labels, or if no
    clip would be held out, or all of them.
    """
    index, rows = audio, np.arange(len(audio))
    if valid == HELD_OUT:
        rows = np.flatnonzero(held_out(audio, held_out_share))
        if not 0 < len(rows) < len(audio):
            raise ValueError(
                f"{audio.where}: data.held_out_share {held_out_share} holds out "
                f"{len(rows)} of {len(audio)} clips; choose another share, or name a "
                "dataset in data.valid"
            )
        meaning = f"held out: {len(rows)} of {len(audio)} training clips"
        _warn_of_few(audio, rows)
    elif valid == TRAIN:
        meaning = "the training clips (the paper's protocol)"
    else:
        index = with_ancestors(open_index(valid, kind="audio"), ontology)
        rows, meaning = np.arange(len(index)), valid
    check_has_labels(index, "validate against")
    if not np.diff(index.table.label_start)[rows].any():
        raise ValueError(
            f"{index.where}: no held-out clip has a label; raise data.held_out_share"
        )
    return Validation(index, rows, meaning)


def _warn_of_few(audio: Index, rows: np.ndarray) -> None:
    """Say it where the held-out clips are too few to choose a checkpoint by."""
    start = audio.table.label_start
    labels = [audio.table.label[start[row] : start[row + 1]] for row in rows]
    count = np.bincount(np.concatenate(labels), minlength=len(audio.classes))
    trained = np.bincount(audio.table.label, minlength=len(audio.classes)) > count
    few = np.flatnonzero(trained & (count < FEW_CLIPS))
    if len(few):
        names = ", ".join(audio.classes.names[c] for c in few[:3])
        _log.warning(
            "held out: %d clips, fewer than %d of %d classes (%s%s): their AP, "
            "and the best checkpoint that it chooses, are mostly chance; raise "
            "data.held_out_share, or name a dataset in data.valid",
            len(rows),
            FEW_CLIPS,
            len(few),
            names,
            ", ..." if len(few) > 3 else "",
        )


def held_out(audio: Index, share: float) -> np.ndarray:
    """[R] bool: the clips of about ``share`` of the recordings.

    A recording is held out or not by its name alone: all its clips go together, and the
    same ones in every run, whatever the seed and the rest of the dataset. Keys of tars
    that were adopted may mean anything, so there each clip is a recording.
    """
    packed = all("packed_by" in made for made in audio.provenances)
    chosen: dict[bytes, bool] = {}
    mask = np.zeros(len(audio), np.bool_)
    for row, key in enumerate(audio.table.key.tolist()):
        name = recording(key) if packed else key
        if name not in chosen:
            chosen[name] = _number(name) < share
        mask[row] = chosen[name]
    return mask


def recording(key: bytes) -> bytes:
    """The part of a key that names the recording: without ``_<start in ms>``."""
    name, _, start = key.rpartition(b"_")
    return name if name and start.isdigit() else key


def _number(name: bytes) -> float:
    """A number in [0, 1) that looks random and depends on ``name`` only."""
    digest = hashlib.blake2b(_SALT + name, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
