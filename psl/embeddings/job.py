"""What psl.search and psl.suggest do with files of embeddings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psl.embeddings.finding import nearest, suggest
from psl.embeddings.making import Embedder, backbone_sha256, last_weights, query_vectors
from psl.embeddings.store import Embeddings, open_embeddings
from psl.tagging.windows import Cut
from psl.teachers.named import checkpoint_of
from psl.weights.checkpoint import Checkpoint, load_checkpoint
from shards.errors import ShardError
from shards.system.files import read_bounded, write_atomic

COLUMNS = ("file", "start", "end", "label", "guess", "probability", "uncertainty")
_MAX_TABLE_BYTES = 1 << 28


def search(
    embeddings: str | Path,
    like: str,
    *,
    top: int = 20,
    model: str | None = None,
    device: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Windows most like one of those of the sound ``like``, most similar first.

    Gives {"file", "start", "end", "similarity"}. Raises ShardError for a file that
    cannot be read, ValueError if ``model`` is not the one that embedded.
    """
    found = open_embeddings(embeddings)
    _check_any(found, embeddings)
    about = found.about
    embedder = Embedder(model or about.model, device)
    _check_fits(found, embedder.checkpoint, embeddings)
    cut = Cut(about.window_seconds, about.hop_seconds)
    query = query_vectors(embedder, like, cut)
    rows, cosines = nearest(found, query, top)
    for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True):
        yield {**_window(found, row), "similarity": round(cosine, 6)}


def suggest_table(
    embeddings: str | Path,
    model: str | Path,
    *,
    out: Path,
    number: int = 50,
    labelled: Sequence[str | Path] = (),
) -> int:
    """Write a table of windows to label; how many there are.

    Raises ShardError and ValueError as search does, and ValueError where all windows
    have labels.
    """
    found = open_embeddings(embeddings)
    _check_any(found, embeddings)
    checkpoint = load_checkpoint(checkpoint_of(str(model)))
    _check_fits(found, checkpoint, embeddings)
    known = _known_rows(found, labelled)
    if len(known) == len(found):
        raise ValueError(f"{embeddings}: all its {len(found)} windows have been given")
    weight, bias = (part.numpy() for part in last_weights(checkpoint))
    made = suggest(found, weight, bias, number, known=known)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, guess, probability, uncertainty in zip(
        made.rows, made.guess, made.probability, made.uncertainty, strict=True
    ):
        window = _window(found, int(row))
        name = checkpoint.classes.names[int(guess)]
        shown = (f"{float(probability):.4f}", f"{float(uncertainty):.4f}")
        place = (window["file"], window["start"], window["end"])
        writer.writerow([*place, "", name, *shown])
    write_atomic(out, buffer.getvalue().encode("utf-8", "surrogateescape"))
    return len(made.rows)


def _window(found: Embeddings, row: int) -> dict[str, Any]:
    return {
        "file": found.files[int(found.file_of[row])],
        "start": round(float(found.starts[row]), 3),
        "end": round(float(found.ends[row]), 3),
    }


def _check_any(found: Embeddings, where: str | Path) -> None:
    if not len(found):
        raise ShardError(f"{where}: has no windows: all its audio was silent")


def _check_fits(found: Embeddings, checkpoint: Checkpoint, where: str | Path) -> None:
    """ValueError unless the model hears as the one that embedded."""
    if backbone_sha256(checkpoint) != found.about.backbone_sha256:
        raise ValueError(
            f"{checkpoint.folder}: is not the model that made {where} "
            f"({found.about.model}), nor adapted from it with frozen layers; embed "
            "again with this one"
        )


def _known_rows(found: Embeddings, tables: Sequence[str | Path]) -> np.ndarray:
    """Rows whose windows are in ``tables``, labelled or not."""
    known: set[tuple[str, float, float]] = set()
    for table in tables:
        text = read_bounded(table, _MAX_TABLE_BYTES)
        try:
            for row in csv.DictReader(text.decode("utf-8-sig").splitlines()):
                start, end = float(row["start"] or ""), float(row["end"] or "")
                known.add((row["file"] or "", round(start, 3), round(end, 3)))
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            raise ShardError(
                f"{table}: no table of psl suggest ({error}); expected columns "
                f"{', '.join(COLUMNS[:4])}"
            ) from None
    if not known:
        return np.zeros(0, np.int64)
    windows = (_window(found, row) for row in range(len(found)))
    return np.array(
        [
            row
            for row, w in enumerate(windows)
            if (w["file"], w["start"], w["end"]) in known
        ],
        np.int64,
    )
