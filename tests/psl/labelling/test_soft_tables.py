"""Tables of soft labels from anyone: damaged ones are refused, in bounded memory."""

from __future__ import annotations

import random
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psl.labelling.config import ImportConfig
from psl.labelling.soft_tables import Rows, read_rows
from shards.errors import ShardError
from tests.hostile import memory_bound
from tests.shards.test_fuzz import BYTES_PER_TEST, fuzz, mutated

KEYS = [f"clip{number // 2}_0" for number in range(12)]
CHUNKS = np.array([0, 1] * 6)
PROBS = np.random.default_rng(0).random((12, 3))


def write(path: Path) -> Path:
    """A table in the form that ``path`` is named after."""
    if path.suffix == ".parquet":
        columns = {"key": KEYS, "chunk": CHUNKS, "probabilities": list(PROBS)}
        pq.write_table(pa.table(columns), path)
        return path
    with h5py.File(path, "w") as file:
        fixed = np.array(KEYS, "S")
        text = h5py.string_dtype()
        if path.stem == "any_length":
            file.create_dataset("key", data=KEYS, dtype=text)
        else:
            file["key"] = fixed
        file["chunk"], file["probabilities"] = CHUNKS, PROBS
    return path


def read(path: Path) -> list[Rows]:
    config = ImportConfig(source=str(path), audio="audio", out="out")
    return list(read_rows(config, len(KEYS), 3))


NAMES = ("table.parquet", "table.h5", "any_length.h5")


@pytest.mark.parametrize("name", NAMES)
def test_each_form_gives_its_rows(tmp_path: Path, name: str) -> None:
    """Else the next test would damage what is never read."""
    (rows,) = read(write(tmp_path / name))
    assert rows.keys == KEYS
    np.testing.assert_array_equal(rows.chunks, CHUNKS)
    np.testing.assert_array_equal(rows.probs, PROBS)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_table_is_refused_or_read(tmp_path: Path, name: str) -> None:
    """h5py raises RuntimeError and KeyError, and libhdf5 never returns from some text.

    1 of 7 damaged files ended in a traceback (2026-11-29).
    """
    whole, path = write(tmp_path / name).read_bytes(), tmp_path / f"damaged_{name}"

    def case(rng: random.Random) -> None:
        path.write_bytes(mutated(rng, whole, block=64))
        read(path)

    with memory_bound(BYTES_PER_TEST):
        fuzz(f"soft labels {name}", 200, case)


def test_a_huge_chunk_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A file of a few kB would fill the memory."""
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file["key"], file["chunk"] = np.array(KEYS, "S"), CHUNKS
        file.create_dataset(
            "probabilities", (12, 3), "f8", chunks=(1 << 26, 3), maxshape=(None, 3)
        )
    with pytest.raises(ShardError, match="'probabilities': chunks of 1610612736 bytes"):
        read(path)
