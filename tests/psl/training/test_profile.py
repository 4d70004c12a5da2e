"""profile=[FIRST,LAST]: what it writes, and that it changes nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from psl import train
from psl.config import parse
from psl.training.config import TrainConfig
from tests import jobs
from tests.learning import losses, tiny_config


def test_a_profile_shows_the_steps_of_each_rank_and_leaves_the_losses_as_they_are(
    tmp_path: Path, dataset: Path
) -> None:
    """A run that is looked at would not be the run that is slow."""
    words = ["epochs=1", "model.dropout=0.3"]
    plain = jobs.start(
        tmp_path / "a", tiny_config(tmp_path / "a", dataset, *words), ranks=2
    )
    assert plain.wait() == [0, 0], plain.output
    words.append("profile=[2,4]")
    seen = jobs.start(
        tmp_path / "b", tiny_config(tmp_path / "b", dataset, *words), ranks=2
    )
    assert seen.wait() == [0, 0], seen.output
    assert losses(tmp_path / "a" / "run") == losses(tmp_path / "b" / "run")
    folder = tmp_path / "b" / "run" / "profile"
    assert "profile/steps_2-4_rank0; no memory.pickle, as this is no GPU" in seen.output
    for rank in range(2):
        with gzip.open(folder / f"steps_2-4_rank{rank}" / "trace.json.gz") as stream:
            events = json.load(stream)["traceEvents"]
        names = [event.get("name") for event in events if event.get("ph") == "X"]
        assert [n for n in names if n.startswith("step ")] == [
            "step 2",
            "step 3",
            "step 4",
        ]
        assert "aten::convolution_backward" in names and "gloo:all_reduce" in names


def test_a_run_that_ends_first_writes_what_it_saw(
    tmp_path: Path, dataset: Path
) -> None:
    """A run is often profiled because it fails."""
    words = tiny_config(tmp_path, dataset, "epochs=1", "profile=[3,6]")
    fault = "step=5,point=step,action=nan"
    job = jobs.start(tmp_path, words, fault=fault)
    assert job.wait() == [1], job.output
    names = [path.name for path in (tmp_path / "run" / "profile").iterdir()]
    assert names == ["steps_3-5_rank0"]


@pytest.mark.parametrize("steps", [[30, 20], [1, 101], [5], [0, 3], "20-30"])
def test_steps_that_are_none_are_refused(steps: object) -> None:
    """A typing error would cost a night without a profile, or a full disk."""
    values = {"run_dir": "r", "data": {"audio": ["a"], "valid": "v"}, "profile": steps}
    with pytest.raises(ValueError, match="profile"):
        parse(TrainConfig, values)


def test_steps_beyond_the_run_are_refused(tmp_path: Path, dataset: Path) -> None:
    """The profile would never be written, and nobody would know why."""
    with pytest.raises(ValueError, match=r"profile = \[10, 13\]: the run has 12 steps"):
        train.main(tiny_config(tmp_path, dataset, "profile=[10,13]"))
