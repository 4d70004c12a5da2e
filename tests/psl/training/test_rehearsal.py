"""psl dry_run: N processes played by one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from psl import dry_run
from psl.command_line import from_command_line
from psl.distributed.environment import pretend_node
from psl.train import COMMAND
from psl.training.config import TrainConfig
from psl.training.rehearsal import rehearse
from shards.format.index import open_index
from tests import jobs
from tests.learning import tiny_config


def test_a_dry_run_reads_what_three_real_ranks_read(
    tmp_path: Path, dataset: Path
) -> None:
    """Shards would be copied to nodes that never read them."""
    words = tiny_config(tmp_path, dataset, "global_batch_size=6", "epochs=1")
    config = from_command_line(TrainConfig, words, COMMAND)
    found = rehearse(config, 3, ranks=[0, 1, 2], num_batches=100, device="cpu")
    log = tmp_path / "reads"
    log.mkdir()
    job = jobs.start(tmp_path, words, ranks=3, reads=log)
    assert job.wait() == [0, 0, 0], job.output
    index = open_index(dataset, kind="audio")
    shard_of = {index.key(row): int(index.table.shard[row]) for row in range(24)}
    assert found.steps_per_epoch == 48 // 6 and found.chunks_per_rank == 2
    for rank in range(3):
        lines = (log / f"{rank}.jsonl").read_text().splitlines()
        read = [json.loads(line) for line in lines]
        assert found.batches[rank] == read
        keys = [key for batch in read for key in batch]
        assert found.reads.chunks[rank] == len(keys) == 16
        shards = {shard_of[key] for key in keys}
        assert found.reads.shards[rank] == len(shards)
        sizes = [(dataset / index.shards[s].name).stat().st_size for s in shards]
        assert found.reads.shard_bytes[rank] == sum(sizes)
        assert found.reads.audio_bytes[rank] == 16 * 16000 * 2
    assert rehearse(config, 3, device="cpu").resumes_after == 8, "it is over"


@pytest.mark.parametrize(
    ("words", "world", "refusal"),
    [
        ([], 3, "global_batch_size 8 cannot be shared by 3 processes"),
        (["batch_seconds=8", "global_batch_size=null"], 3, "make it a multiple of 3"),
        (["accumulation_steps=3"], 2, "accumulation_steps 3 does not divide the 4"),
        (["global_batch_size=64"], 2, "48 chunks do not fill one global batch of 64"),
        (["augment.mixup_alpha=0.5"], 8, "mixup"),
        (["sync_batch_norm=true"], 2, "torch synchronises BatchNorm on GPUs only"),
        (["data.audio=[nowhere]"], 2, "nowhere"),
    ],
)
def test_a_dry_run_refuses_what_the_ranks_refuse_in_the_same_words(
    tmp_path: Path, dataset: Path, words: list[str], world: int, refusal: str
) -> None:
    """A job of 512 GPUs would wait in the queue for days, and then be refused."""
    config = from_command_line(
        TrainConfig, tiny_config(tmp_path, dataset, *words), COMMAND
    )
    with pytest.raises(Exception, match=re.escape(refusal)) as dry:
        rehearse(config, world, device="cpu")
    if world > 3:
        return
    job = jobs.start(tmp_path, tiny_config(tmp_path, dataset, *words), ranks=world)
    assert job.wait() == [78] * world, job.output
    assert str(dry.value) in job.output


def test_a_run_folder_that_cannot_be_is_refused(tmp_path: Path, dataset: Path) -> None:
    """The job would wait for its nodes to say that a file is in the way."""
    (tmp_path / "file").touch()
    words = tiny_config(tmp_path, dataset)
    for name in ("file", "file/run"):
        own = [*words, f"run_dir={tmp_path / name}"]
        config = from_command_line(TrainConfig, own, COMMAND)
        with pytest.raises(ValueError, match="file is no folder; choose another"):
            rehearse(config, 2, device="cpu")


def test_memory_is_that_of_the_arithmetic(tmp_path: Path, dataset: Path) -> None:
    """A job would run out of memory on the machine that it was planned for."""
    words = tiny_config(tmp_path, dataset, "optim.ema_decay=0.99")
    config = from_command_line(TrainConfig, words, COMMAND)
    alone = rehearse(config, 1, device="cpu")
    number = alone.cost.num_parameters
    assert alone.memory.optimizer == 8 * number and alone.memory.average == 4 * number
    assert alone.memory.gradients == 4 * number
    four = rehearse(config, 4, device="cpu")
    assert four.memory.activations == alone.memory.activations / 4
    assert four.memory.gradients == 8 * number, "with the flat copy"
    # 8 batches ahead and 1 in the making, of 2 chunks of 1 s, with float32 targets
    num_classes = len(open_index(dataset, kind="audio").classes)
    assert four.memory.batches == 9 * 2 * (2 * 16000 + 4 * num_classes)


def test_the_command_has_both_names_and_writes_nothing(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words of the documentation would not work."""
    words = tiny_config(tmp_path, dataset)
    dry_run.main(["world=4", *words, "ranks=[0,3]", "batches=1", "per_node=2"])
    told = capsys.readouterr().out
    assert told.startswith("4 processes, 2 a node: nothing is refused")
    assert "8 chunks of 1 s: 2 a process" in told
    assert re.search(r"^rank 3, batch 1: \w+, \w+$", told, re.M)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    with pytest.raises(ValueError, match=r"ranks \[4\]: expected 0 to 3"):
        dry_run.main(["world=4", *words, "ranks=[4]"])
    with pytest.raises(ValueError, match="'world' is missing"):
        dry_run.main(words)
    tool = [sys.executable, "-m", "tools.dry_run", "--help"]
    helped = subprocess.run(tool, capture_output=True, text=True, timeout=60)
    assert helped.returncode == 0 and "world=512 my.yaml" in helped.stdout


def test_a_rehearsal_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What runs after it in a process would share its cache among nobody."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pretend_node(4):
        assert os.environ["LOCAL_WORLD_SIZE"] == "4"
    assert "LOCAL_WORLD_SIZE" not in os.environ
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pretend_node(4):
        pass
    assert os.environ["LOCAL_WORLD_SIZE"] == "2"
