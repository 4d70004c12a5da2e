"""Labels made by anyone -> a label dataset like ours, checked like ours.

Owns writing rows that are at hand in the order of their audio, and NumPy arrays as a
source of them. psl/labelling/worker.py labels with a teacher. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from psl.data.config import AugmentConfig
from psl.data.labels import LabelLayout
from psl.data.views import Augmentation
from psl.labelling import progress
from psl.labelling.calibration_file import Calibration
from psl.labelling.unlabelled import check_report
from shards import __version__
from shards.dataset.writer import DatasetBuilder, Row
from shards.errors import ShardError, naming
from shards.format.chunking import Chunking
from shards.format.index import Index, open_index
from shards.format.join import check_join
from shards.format.label_codec import DENSE

MAX_NAMED = 5
"""Keys that a message names."""
ARRAYS = "arrays"
"""What provenance calls labels that came as NumPy arrays."""


def write_labels(
    out: str | Path,
    audio: str | Path,
    labels: Mapping[str, np.ndarray],
    *,
    chunk_seconds: float,
    hop_seconds: float | None = None,
    made_by: Mapping[str, Any] | None = None,
    max_unlabelled: float = 0.0,
) -> Index:
    """Write probabilities of one's own as a label dataset for ``audio``, and open it.

    ``labels`` has for the key of every clip an array [K, C]: a row for each of its
    chunks, as psl.label cuts them (shards/format/chunking.py), a column for each class
    of the audio, all in [0, 1]; they are stored as float16. ``made_by`` says where they
    are from, in plain values; it is kept as provenance. Any mapping will do, so that
    labels need not be in memory.

    Raises ShardError or ValueError that names the first clip whose array is missing
    (more than a share ``max_unlabelled`` of them), for an unknown key, another shape or
    an invalid value; for a folder ``out`` that is not empty; and for ``made_by`` that
    is not JSON.
    """
    index = open_index(audio, kind="audio")
    layout = dense_layout(index, chunk_seconds, hop_seconds)
    check_keys(index, labels.keys(), "the labels given", max_unlabelled)
    if Path(out).exists() and any(Path(out).iterdir()):
        raise ShardError(f"{out}: not empty; choose another folder")

    def encode(row: int) -> tuple[bytes, int] | None:
        if (probs := labels.get(index.key(row))) is None:
            return None
        with naming(index.place(row)):
            return encode_row(index, layout, row, probs)

    builder = make_builder(out, index, layout, {"source": ARRAYS, **(made_by or {})})
    store(builder, index, layout, str(audio), encode, max_unlabelled=max_unlabelled)
    return open_index(out, kind="labels")


def dense_layout(
    audio: Index, chunk_seconds: float, hop_seconds: float | None
) -> LabelLayout:
    """All classes of chunks cut like this, one view of each."""
    rate = audio.properties["sample_rate"]
    chunking = Chunking.from_seconds(chunk_seconds, rate, hop_seconds)
    return LabelLayout(chunking, DENSE, Augmentation.from_config(AugmentConfig(), rate))


def check_keys(
    audio: Index, keys: Collection[str], where: str, max_missing: float = 0.0
) -> None:
    """ShardError naming keys that ``audio`` does not have, or too many missing ones."""
    found, expected = set(keys), {key.decode() for key in audio.table.key.tolist()}
    if extra := sorted(found - expected):
        raise ShardError(
            f"{where}: {len(extra)} keys are not in {audio.where}: {_some(extra)}; "
            f"expected keys such as {audio.key(0)!r}"
        )
    missing = sorted(expected - found)
    if len(missing) > max_missing * len(audio):
        raise ShardError(
            f"{where}: no labels for {len(missing)} of {len(audio)} clips of "
            f"{audio.where}: {_some(missing)}; add them, or allow up to a fraction F "
            "with max_unlabelled=F"
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return ", ".join(map(repr, keys[:MAX_NAMED])) + more


def encode_row(
    audio: Index, layout: LabelLayout, row: int, probs: np.ndarray
) -> tuple[bytes, int]:
    """The label member of a clip, and its number of chunks, from probabilities [K, C].

    Raises ShardError if they are not of this shape, or not in [0, 1].
    """
    values = np.asarray(probs)
    chunks = int(layout.chunking.num_chunks(audio.table.count[row]))
    expected = (chunks, len(audio.classes))
    if values.shape != expected or values.dtype.kind not in "fiub":
        raise ShardError(
            f"labels of shape {list(values.shape)} and type {values.dtype}, expected "
            f"{list(expected)} numbers: a row for each chunk, a column for each class"
        )
    try:
        return layout.encode(values), chunks
    except ValueError as error:
        raise ShardError(
            f"{error}; apply the sigmoid first if they are logits"
        ) from None


def make_builder(
    out: str | Path, audio: Index, layout: LabelLayout, provenance: Mapping[str, Any]
) -> DatasetBuilder:
    """A label dataset in the making; ValueError if ``provenance`` is not plain JSON."""
    facts = {
        "labelled_by": f"psl {__version__}",
        **provenance,
        "audio_fingerprint": audio.fingerprint,
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{out}: provenance is not plain JSON: {error}") from None
    rate = audio.properties["sample_rate"]
    return DatasetBuilder(
        folder=Path(out),
        kind="labels",
        classes=audio.classes,
        properties={**layout.properties, "sample_rate": rate},
        provenance=facts,
    )


def store(
    builder: DatasetBuilder,
    audio: Index,
    layout: LabelLayout,
    where: str,
    encode: Callable[[int], tuple[bytes, int] | None],
    *,
    max_unlabelled: float = 0.0,
    calibration: Calibration | None = None,
    calibrated_from: str | None = None,
) -> bool:
    """Write a row for each clip of ``audio``, publish the set and join it with it.

    ``encode`` gives the member of a row and its number of chunks; None for a clip
    without labels. What they were calibrated with, and from, is noted. Shards that are
    there already, from the same source, stay. Returns False if all were. Raises what
    ``encode`` does, and ShardError if too many clips are without labels or the set was
    made with other settings.
    """
    names = [shard.name for shard in audio.shards]
    if not builder.begin():
        builder.publish(names)
        return False
    progress.note_job(builder, audio)
    ends = np.cumsum([shard.num_clips for shard in audio.shards]).tolist()
    nothing = layout.encode(np.zeros((0, len(audio.classes)), np.float32)), 0
    shards = tqdm(audio.shards, unit="shard", desc=f"write {builder.folder.name}")
    for shard, end in zip(shards, ends, strict=True):
        if builder.part(shard.name) is None:
            notes: list[list[str]] = []
            found = ((row, encode(row)) for row in range(end - shard.num_clips, end))
            members = (_row(audio, *pair, nothing, notes) for pair in found)
            builder.add(shard.name, members, notes)
    parts = [part for name in names if (part := builder.part(name))]
    check_report(builder, parts, max_unlabelled, len(audio))
    progress.note_made(
        builder,
        audio=where,
        calibration=calibration,
        calibrated_from=calibrated_from,
    )
    builder.publish(names)
    check_join(audio, open_index(builder.folder, kind="labels"))
    return True


def _row(
    audio: Index,
    row: int,
    member: tuple[bytes, int] | None,
    nothing: tuple[bytes, int],
    notes: list[list[str]],
) -> Row:
    """The row of a clip; one without labels has no chunks, and is noted."""
    key = audio.key(row)
    if member is None:
        notes.append([key, "unlabelled", "not in the source of the labels"])
        member = nothing
    return Row(key=key, suffix="npy", data=member[0], count=member[1])
