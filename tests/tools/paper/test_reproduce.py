"""Recipes of the paper's tables: what they ask for, and what is printed of them."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from psl.config import parse
from psl.config_values import read_words
from psl.models.families import build_from_config
from psl.training.config import DEFAULT_BATCH_SIZE, TrainConfig
from tools.paper.steps import Step, global_batch_size, num_processes

pytestmark = pytest.mark.usefixtures("in_the_repository")

PAPER = {
    "baseline": (17.69, 1.994),
    "psl_10s": (31.13, 2.454),
    "psl_5s": (34.11, 2.549),
    "psl_2s": (35.48, 2.588),
    "cnn14": (27.80, 1.850),
    "efficientnet_b0": (33.50, None),
    "efficientnet_b2": (34.06, None),
    "resnet50": (31.80, None),
    "ast": (34.70, None),
}
"""mAP in percent and d' of Table 2, as published."""
ROWS = {
    "table2": [*PAPER],
    "table3": ["psl_10s", "psl_5s", "psl_2s"],
    "table4": ["baseline", "psl_10s", "psl_5s", "psl_2s"],
}
CASES = [(table, row) for table, rows in ROWS.items() for row in rows]


def commands(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    """The commands that reproduce.py would run."""
    tools.main([*words, "--print"])
    return capsys.readouterr().out.splitlines()


def config_of(command: str) -> TrainConfig:
    """What a psl.train command would run."""
    words = command.split("psl.train ")[1].replace("'", "").split()
    return parse(TrainConfig, read_words(words))


def test_every_recipe_has_a_row_and_every_row_a_recipe(tools: ModuleType) -> None:
    """A recipe nobody can name, or a row that fails after the teacher is trained."""
    for table, rows in ROWS.items():
        assert list(tools.TABLES[table].rows) == rows
        files = {path.stem for path in Path("configs", table).glob("*.yaml")}
        assert files - {"base"} == set(rows)


def test_the_published_numbers_are_the_papers(tools: ModuleType) -> None:
    """Every comparison would be with a typing error."""
    rows = tools.TABLES["table2"].rows
    assert {name: (row.mean_ap, row.d_prime) for name, row in rows.items()} == PAPER
    for name, (mean_ap, d_prime) in PAPER.items():
        comment = Path("configs", "table2", f"{name}.yaml").read_text()
        assert f"{mean_ap:.2f}" in comment and (
            not d_prime or f"{d_prime:.3f}" in comment
        )


@pytest.mark.parametrize(("table", "row"), CASES)
@pytest.mark.parametrize("profile", ["audioset", "table"])
def test_every_row_of_every_table_is_a_configuration_that_train_takes(
    tools: ModuleType,
    capsys: pytest.CaptureFixture[str],
    table: str,
    row: str,
    profile: str,
) -> None:
    """The user of one row would meet an unknown key hours into a queue."""
    words = ["--profile", profile, "--rows", row, "--seeds", "7", "--data", "d"]
    words += ["--teacher", "t"] if profile == "audioset" else []
    lines = commands(tools, capsys, table, *words)
    train, evaluate = lines[-2:]
    config = config_of(train)
    assert config.seed == 7
    assert config.data.alpha == (1.0 if table == "table2" else 0.5)
    seconds = {"psl_10s": 10, "psl_5s": 5, "psl_2s": 2}.get(row)
    assert config.data.chunk_seconds == (seconds or 10)
    splits = ["full", "balanced"] if table == "table4" else ["balanced"]
    assert config.data.audio == [f"d/shards/{split}" for split in splits]
    root = f"runs/{profile}"
    names = {"full": f"labels_full_{seconds}s", "balanced": f"labels_{seconds}s"}
    labels = [f"{root}/{names[split]}" for split in splits]
    assert config.data.labels == (labels if seconds else None)
    made = [line.split("out=")[1].split()[0] for line in lines if "psl.label" in line]
    assert made == (labels if seconds else [])
    assert f"checkpoint={config.run_dir}" in evaluate and "d/shards/eval" in evaluate


def test_the_baseline_of_table_2_is_the_papers_at_full_size(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newcomer's "my mAP does not match": the baseline would be another one."""
    words = ["table2", "--profile", "audioset", "--rows", "baseline,psl_2s"]
    words += ["--teacher", "t"]
    for line in commands(tools, capsys, *words)[-8:]:
        if "psl.train" not in line:
            continue
        config = config_of(line)
        assert (config.chunks_per_step, config.epochs, config.patience) == (
            32,
            300,
            15,
        )
        assert (config.optim.learning_rate, config.optim.schedule) == (1e-3, "constant")
        assert (config.optim.warmup_steps, config.optim.clip_grad_norm) == (0, None)
        assert (config.keep_best, config.average_best) == (4, 4)
        assert config.data.valid == "held_out"
        model = build_from_config(config.model, 527)
        assert sum(p.numel() for p in model.parameters()) == 2_898_383


@pytest.mark.parametrize(
    ("profile", "sound"), [("audioset", "held_out"), ("table", "d/shards/dev")]
)
def test_the_papers_protocol_chooses_on_the_training_clips_in_folders_of_its_own(
    tools: ModuleType,
    capsys: pytest.CaptureFixture[str],
    profile: str,
    sound: str,
) -> None:
    """Its figures would pass for those of an honest choice, or not be comparable."""
    words = ["table2", "--profile", profile, "--rows", "baseline", "--seeds", "0"]
    words += ["--data", "d"]
    ours, paper = (
        [line for line in commands(tools, capsys, *words, *more) if "seed0" in line]
        for more in ([], ["--paper-protocol"])
    )
    assert config_of(ours[0]).data.valid == sound
    chosen = config_of(paper[0])
    assert (chosen.data.valid, chosen.keep_best, chosen.average_best) == ("train", 4, 4)
    assert "seed0/baseline_paper_protocol" in paper[0] and "protocol" not in ours[0]
    assert "checkpoint=" + config_of(paper[0]).run_dir in paper[1]


@pytest.mark.parametrize("row", ["baseline", "psl_10s", "psl_5s", "psl_2s"])
def test_the_tables_and_the_demonstration_train_the_same_students(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], row: str
) -> None:
    """One folder would hold students of two recipes, told apart by nothing."""
    train = commands(tools, capsys, "table2", "--rows", row, "--seeds", "0")[-2]
    demo = importlib.import_module("tools.paper.demo")
    steps = demo._student_steps(demo.PROFILES["table"], row, 0)
    assert config_of(train) == config_of(" ".join(steps[0].command))
    asked_for = importlib.import_module("tools.paper.steps")._asked_for
    assert asked_for(shlex.split(train)) == asked_for(steps[0].command)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table3", "--rows", "psl_2s,ast"], "--rows ast: table3 has psl_10s"),
        (["table2", "--seeds", "0,one"], "--seeds 0,one: expected numbers"),
        (["table2", "--profile", "audioset"], "--rows psl_10s needs --teacher"),
        (["table5"], "invalid choice: 'table5'"),
    ],
)
def test_a_wrong_row_or_seed_is_refused_before_anything_runs(
    tools: ModuleType,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    """The teacher would be trained before the typing error is found."""
    with pytest.raises(SystemExit):
        tools.main(words)
    assert message in capsys.readouterr().err


def test_audioset_that_is_not_there_is_named_with_the_command_that_packs_it(
    tools: ModuleType, tmp_path: Path
) -> None:
    """The first error would come from psl.train, about a file of the third step."""
    words = ["--profile", "audioset", "--data", str(tmp_path), "--root", str(tmp_path)]
    with pytest.raises(ValueError, match="shards/balanced.*python -m shards.pack"):
        tools.main(["table2", "--rows", "baseline", *words])


def test_a_table_sets_each_row_beside_the_papers_and_says_what_was_not_run(
    tools: ModuleType,
) -> None:
    """A reader would take a missing row for a measured one, or a seed for a mean."""
    metrics: dict[str, Any] = {
        "psl_2s": [
            json.dumps({"mAP": value, "AUC": 0.8, "d_prime": 1.25})
            for value in (0.40, 0.42, 0.44)
        ],
        "teacher": [json.dumps({"mAP": 0.5, "AUC": 0.9, "d_prime": 1.5})],
    }
    summary = tools.summarise(metrics)
    text = tools.paper_table("table2", summary, "some clips")
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 10
    assert rows[0] == "| Weak baseline | 17.69 | 1.994 | not run | | | |"
    assert rows[3] == "| PSL-2s | 35.48 | 2.588 | 42.00 ± 2.00 | 0.800 | 1.25 | 3 |"
    assert rows[9] == "| Teacher | 40.53 (1) | - | 50.00 | 0.900 | 1.50 | 1 |"
    text = tools.paper_table("table3", summary, "some clips")
    assert "| PSL-2s + weak | - | - | 42.00 ± 2.00 | 0.800 | 1.25 | 3 |" in text


def test_a_result_of_other_words_is_refused(tools: ModuleType, tmp_path: Path) -> None:
    """A table would stand under a teacher or data that did not make it."""
    result = tmp_path / "run" / "result.json"
    result.parent.mkdir()
    script = f"open({str(result)!r}, 'a').write('made')"

    def made_with(*words: str) -> str:
        command = [sys.executable, "-c", script, *words]
        tools.Chain(tmp_path).run([Step("row", command, result)])
        return result.read_text()

    assert made_with("teacher=a", "seed=1", "of/the/demonstration.yaml") == "made"
    assert made_with("of/the/table.yaml", "seed=1", "teacher=a") == "made"
    with pytest.raises(
        Exception, match="made with teacher=a, expected teacher=b; take"
    ):
        made_with("teacher=b", "seed=1")
    assert result.read_text() == "made"


@pytest.mark.parametrize(
    ("gpus", "batch", "expected"),
    [(8, 32, 8), (8, 100, 5), (16, 12, 12), (16, 256, 16), (1, 12, 1), (0, 16, 2)],
)
def test_as_many_processes_as_can_share_a_batch(
    tools: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    batch: int,
    expected: int,
) -> None:
    """EfficientNet's batch of 100 would end the whole table on a node of 8 GPUs."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert num_processes(batch) == expected
    files = [Path("configs/table2", f"{row}.yaml") for row in ("base", "ast")]
    assert global_batch_size(files) == 12
    assert global_batch_size(files[:1]) == DEFAULT_BATCH_SIZE == 32
    same = [*files[:1], Path("configs/table2/psl_5s.yaml")]
    same.append(Path("configs/options/same_seconds.yaml"))
    assert global_batch_size(same) == 64
