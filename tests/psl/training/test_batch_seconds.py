"""Batches by seconds of audio: how many chunks they are, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from psl import train
from psl.config import parse
from psl.config_values import override, read_yaml
from psl.training.checks import check_possible
from psl.training.config import TrainConfig
from shards.order.plan import Plan
from tests.learning import REPOSITORY, losses, tiny_config

BASE: dict[str, Any] = {"run_dir": "r", "data": {"audio": ["a"], "valid": "v"}}


def config_of(*words: str) -> TrainConfig:
    """The configuration of BASE and ``words``."""
    return parse(TrainConfig, override(BASE, list(words), TrainConfig), where="train")


@pytest.mark.parametrize(
    ("words", "chunks"),
    [
        ([], 32),
        (["global_batch_size=12"], 12),
        (["batch_seconds=320"], 32),
        (["batch_seconds=320", "data.chunk_seconds=5"], 64),
        (["batch_seconds=320", "data.chunk_seconds=2"], 160),
        (["batch_seconds=0.9", "data.chunk_seconds=0.3"], 3),  # 3.0000000000000004
        (["batch_seconds=20", "global_batch_size=2"], 2),  # they agree
    ],
)
def test_a_batch_has_as_many_chunks_as_fill_its_seconds(
    words: list[str], chunks: int
) -> None:
    """A 2-s student would hear a fifth of the audio per step, against the recipe."""
    assert config_of(*words).chunks_per_step == chunks


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["batch_seconds=45", "data.chunk_seconds=2"],
            "train: batch_seconds = 45 is 22.5 chunks of data.chunk_seconds = 2; "
            "expected a whole number, such as batch_seconds=44 for 22",
        ),
        (["batch_seconds=4"], "is 0.4 chunks .* such as batch_seconds=10 for 1"),
        (
            ["batch_seconds=320", "global_batch_size=16"],
            "train: batch_seconds = 320 is 32 chunks of data.chunk_seconds = 10, but "
            "global_batch_size = 16; set one of the two to null",
        ),
        (["batch_seconds=0"], "batch_seconds = 0: Input should be greater than"),
        (["batch_seconds=nan"], "batch_seconds = 'nan': Input should be a finite"),
        (["batch_seconds=1e9", "data.chunk_seconds=0.001"], "expected 1 to 1048576"),
    ],
)
def test_seconds_that_are_no_whole_number_of_chunks_are_refused(
    words: list[str], message: str
) -> None:
    """A run would train on another batch than its configuration says."""
    with pytest.raises(ValueError, match=message):
        config_of(*words)


def test_seconds_that_the_processes_cannot_share_are_refused() -> None:
    """One rank would wait for the others; the error would name an unset key."""
    config = config_of("batch_seconds=30", "data.chunk_seconds=2")
    plan = Plan(np.full(40, 5), np.array([40]), config.chunks_per_step, seed=0)
    ranks: Any = SimpleNamespace(num_processes=4, process_index=0)
    with pytest.raises(
        ValueError, match="30 is 15 chunks of 2 s, which 4 .* a multiple of 8"
    ):
        check_possible(config, plan, ranks)


@pytest.mark.parametrize(("table", "seconds"), [("mini", 160), ("table2", 320)])
def test_with_the_option_all_students_hear_as_much_audio_a_step(
    table: str, seconds: int
) -> None:
    """What the recipe is for."""
    heard = []
    for row in ("baseline", "psl_10s", "psl_5s", "psl_2s"):
        paths = [f"configs/{table}/{name}.yaml" for name in ("base", row)]
        paths.append("configs/options/same_seconds.yaml")
        values: dict[str, Any] = {}
        for path in paths:
            layer = read_yaml(REPOSITORY / path, TrainConfig)
            data = {**values.get("data", {}), **layer.get("data", {})}
            values = {**values, **layer, "data": data}
        values = {"run_dir": "r", **values, "batch_seconds": seconds}
        config = parse(TrainConfig, values)
        heard.append(config.chunks_per_step * config.data.chunk_seconds)
    assert heard == [seconds] * 4


def test_a_run_by_seconds_is_the_run_by_chunks(tmp_path: Path, dataset: Path) -> None:
    """Another order of batches would hide behind another key; a resume would fail."""
    words = ["data.chunk_seconds=0.5", "epochs=1"]
    by_chunks = ["global_batch_size=16"]
    by_seconds = ["global_batch_size=null", "batch_seconds=8"]
    train.main(tiny_config(tmp_path / "a", dataset, *words, *by_chunks))
    train.main(tiny_config(tmp_path / "b", dataset, *words, *by_seconds))
    found = losses(tmp_path / "b" / "run")
    assert found and found == losses(tmp_path / "a" / "run")
    more = ["data.chunk_seconds=0.5", "epochs=2", *by_chunks]
    train.main(tiny_config(tmp_path / "b", dataset, *more))
    assert len(losses(tmp_path / "b" / "run")) == 2 * len(found)
    with pytest.raises(ValueError, match="begun with global_batch_size = 16, not 8"):
        train.main(tiny_config(tmp_path / "b", dataset, *words, "batch_seconds=4"))
