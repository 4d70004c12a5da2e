"""Soft labels of others, in a table with a row for each chunk -> a label dataset.

Owns putting the rows, which come in any order, where they belong, and what must hold of
them: every chunk of every clip once, and probabilities.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from psl.labelling.soft_tables import ImportConfig, Rows, read_rows
from psl.labelling.store import MAX_NAMED, dense_layout, encode_row, make_builder, store
from psl.teachers.member import match_stated
from shards.errors import ShardError
from shards.format.classes import Classes, read_classes
from shards.format.index import Index, open_index
from shards.system.files import file_sha256


def import_labels(config: ImportConfig) -> str:
    """Write the labels of ``config.source`` as a label dataset; a line for people.

    Raises ShardError naming file, key and chunk of the first row that is missing,
    repeated, not of this audio or not of probabilities.
    """
    audio = open_index(config.audio, kind="audio")
    layout = dense_layout(audio, config.chunk_seconds, config.hop_seconds)
    stated = audio.classes if config.classes is None else read_classes(config.classes)
    columns = match_stated(stated, len(stated), audio.classes, where=config.source)
    facts = {
        "source": Path(config.source).name,
        "source_sha256": file_sha256(config.source),
        "outputs_sha256": stated.sha256,
    }
    builder = make_builder(config.out, audio, layout, facts)
    if builder.finished():
        return f"{config.out}: already there"
    chunks = layout.chunking.num_chunks(audio.table.count)
    builder.parts_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=builder.parts_folder) as stream:
        shape = (int(chunks.sum()), len(audio.classes))
        probs: np.ndarray = np.memmap(stream, np.float16, "w+", shape=shape)
        starts = np.cumsum(chunks) - chunks
        unlabelled = _fill(config, audio, stated, chunks, probs, columns)

        def encode(row: int) -> tuple[bytes, int] | None:
            if unlabelled[row]:
                return None
            of_clip = probs[starts[row] : starts[row] + chunks[row]]
            return encode_row(audio, layout, row, of_clip)

        limit = config.max_unlabelled
        store(builder, audio, layout, config.audio, encode, max_unlabelled=limit)
    return f"{config.out}: labels of {len(audio)} clips from {config.source}"


def _fill(
    config: ImportConfig,
    audio: Index,
    stated: Classes,
    chunks: np.ndarray,
    probs: np.ndarray,
    columns: list[int],
) -> np.ndarray:
    """Put all rows where they belong in ``probs`` [sum(chunks), C].

    Returns which clips have none [R] bool.
    """
    starts = np.cumsum(chunks) - chunks
    row_of = {key.decode(): row for row, key in enumerate(audio.table.key.tolist())}
    seen = np.zeros(len(probs), np.bool_)
    for rows in read_rows(config, len(probs), len(stated)):
        row = np.array([row_of.get(key, -1) for key in rows.keys], np.int64)
        _check_rows(config, audio, rows, row, chunks)
        places = starts[row] + rows.chunks
        _, first = np.unique(places, return_index=True)
        again = seen[places]
        again[np.setdiff1d(np.arange(len(places)), first)] = True
        if again.any():
            at = int(again.argmax())
            raise ShardError(
                f"{config.source}: duplicate chunk {rows.chunks[at]} of key "
                f"{rows.keys[at]!r}; keep one of them"
            )
        seen[places] = True
        probs[places] = rows.probs[:, columns]
    return _unlabelled(config, audio, chunks, seen)


def _unlabelled(
    config: ImportConfig, audio: Index, chunks: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """Clips without any row [R] bool; ShardError if one has some only, or too many."""
    stops = np.cumsum(chunks)
    found = np.diff(np.concatenate([[0], np.cumsum(seen)])[[0, *stops]])
    partly = np.flatnonzero((found > 0) & (found < chunks))
    if len(partly):
        row = int(partly[0])
        missing = int(seen[stops[row] - chunks[row] : stops[row]].argmin())
        raise ShardError(
            f"{config.source}: no row for chunk {missing} of key {audio.key(row)!r}, "
            f"which has {chunks[row]} chunks of {config.chunk_seconds:g} s; so with "
            f"{len(partly)} clips; add it"
        )
    none = np.flatnonzero(found == 0)
    if len(none) > config.max_unlabelled * len(audio):
        names = ", ".join(repr(audio.key(row)) for row in none[:MAX_NAMED].tolist())
        raise ShardError(
            f"{config.source}: no rows for {len(none)} of {len(audio)} clips of "
            f"{audio.where}: {names}{', ...' if len(none) > MAX_NAMED else ''}; add "
            "them, or allow up to a fraction F with max_unlabelled=F"
        )
    return found == 0


def _check_rows(
    config: ImportConfig, audio: Index, rows: Rows, row: np.ndarray, chunks: np.ndarray
) -> None:
    """ShardError naming the first row that is not of this audio, or invalid."""
    if (row < 0).any():
        key = rows.keys[int((row < 0).argmax())]
        raise ShardError(
            f"{config.source}: key {key!r:.200} is not in {audio.where}; expected keys "
            f"such as {audio.key(0)!r}"
        )
    outside = (rows.chunks < 0) | (rows.chunks >= chunks[row])
    if outside.any():
        at = int(outside.argmax())
        raise ShardError(
            f"{config.source}: chunk {rows.chunks[at]} of key {rows.keys[at]!r}, which "
            f"has chunks 0 to {chunks[row[at]] - 1} of {config.chunk_seconds:g} s; "
            "give the chunk_seconds and hop_seconds of the labels"
        )
    good = (rows.probs >= 0) & (rows.probs <= 1)  # NaN is neither
    if not good.all():
        at, output = np.argwhere(~good)[0].tolist()
        raise ShardError(
            f"{config.source}: {rows.probs[at, output]:g} for output {output} of chunk "
            f"{rows.chunks[at]} of key {rows.keys[at]!r}, expected a probability in "
            "[0, 1]; apply the sigmoid first if these are logits"
        )
