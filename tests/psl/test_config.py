"""Configuration: what is accepted, what is refused and how."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from psl import train
from psl.config import describe, from_command_line, override, parse, read_yaml, to_yaml
from psl.evaluate import EvaluateConfig
from psl.labelling.config import LabelConfig
from psl.training.config import TrainConfig
from tests.conftest import Run
from tests.learning import REPOSITORY

BASE = {"run_dir": "r", "data": {"audio": ["a"], "valid": "v"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optm.learning_rate=1", "unknown key 'optm'"),
        (
            "optim.learnig_rate=1",
            "unknown key 'optim.learnig_rate'; did you mean 'optim.learning_rate'",
        ),
        ("epochs=ten", "epochs = 'ten': Input should be a valid integer"),
        ("epochs=2.5", "epochs = 2.5: Input should be a valid integer"),
        ("epochs=0", "epochs = 0: Input should be greater than 0"),
        ("data.alpha=1.5", "less than or equal to 1"),
        ("data.audio=a", "data.audio = 'a': expected a list, such as data.audio=[a]"),
        ("optim.schedule=cosin", "optim.schedule = 'cosin': Input should be"),
        ("model.width=null", "model.width"),
        ("model.front_end.hop_length=0", "greater than 0"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(change: str, message: str) -> None:
    """A typo in a config would silently run another experiment."""
    with pytest.raises(ValueError, match="train: ") as error:
        parse(TrainConfig, override(BASE, [change]), where="train")
    assert message in str(error.value)


def test_a_missing_key_is_named() -> None:
    """The user would have to guess."""
    with pytest.raises(ValueError, match="'data.valid' is missing"):
        parse(TrainConfig, {"run_dir": "r", "data": {"audio": ["a"]}})


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2", 2.0), ("5E+1", 50)])
def test_numbers_in_scientific_form_are_numbers(text: str, value: float) -> None:
    """YAML 1.1 reads 1e-3 as a string."""
    config = parse(TrainConfig, override(BASE, [f"optim.learning_rate={text}"]))
    assert config.optim.learning_rate == value


def test_no_is_a_word_and_not_a_boolean() -> None:
    """YAML 1.1 reads it as false, so that precision=no would be refused."""
    assert parse(TrainConfig, override(BASE, ["precision=no"])).precision == "no"


@pytest.mark.parametrize("cls", [TrainConfig, LabelConfig, EvaluateConfig])
def test_every_field_is_read_somewhere(cls: type) -> None:
    """A knob that does nothing would be turned in vain."""
    files = (REPOSITORY / "psl").rglob("*.py")
    source = "\n".join(path.read_text() for path in files)
    fields = {name.split(".")[-1] for name, _ in describe(cls)} - {"name"}
    assert not [field for field in fields if not re.search(rf"\.{field}\b", source)]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """YAML keeps the last one in silence."""
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nepochs: 2\nseed: 3\n")
    with pytest.raises(ValueError, match="twice.yaml: line 3: key 'seed' stands twice"):
        read_yaml(path)


def test_objects_in_yaml_are_refused(tmp_path: Path) -> None:
    """A config from a stranger could run code."""
    path = tmp_path / "evil.yaml"
    path.write_text("run_dir: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match="evil.yaml"):
        read_yaml(path)


def test_later_words_override_earlier_ones_key_by_key(tmp_path: Path) -> None:
    """A file for one part of the config would wipe out another part."""
    base, top = tmp_path / "base.yaml", tmp_path / "top.yaml"
    base.write_text(yaml.safe_dump(BASE | {"optim": {"warmup_steps": 5}}))
    top.write_text("optim: {learning_rate: 0.5}\n")
    config = from_command_line(
        TrainConfig,
        [str(base), str(top), "epochs=3"],
        command="train",
        purpose=None,
        example="",
    )
    assert (config.optim.warmup_steps, config.optim.learning_rate) == (5, 0.5)
    assert (config.epochs, config.data.valid) == (3, "v")


def test_a_printed_config_reads_back_as_the_same() -> None:
    """config.yaml of a run could not be used to repeat it."""
    config = parse(TrainConfig, override(BASE, ["optim.learning_rate=1e-5"]))
    assert parse(TrainConfig, yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("cls", [TrainConfig, LabelConfig])
def test_every_field_says_what_it_is(cls: type) -> None:
    """--help would list keys without their meaning or unit."""
    plain = {"model.name"}
    nameless = [name for name, text in describe(cls) if len(text.split("(")[0]) < 8]
    assert set(nameless) <= plain


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.yaml")))
def test_every_config_in_the_repository_is_valid(path: Path) -> None:
    """A recipe we ship would not start."""
    root = REPOSITORY / "configs/mini"
    if not path.is_relative_to(root):  # tables 3 and 4 go over the base of table 2
        root = REPOSITORY / "configs/table2"
    bases = [root / "base.yaml", path.with_name("base.yaml")]
    words = [str(base) for base in bases if base.exists()]
    words += [str(path), "run_dir=r"]
    from_command_line(TrainConfig, words, command="train", purpose=None, example="")


@pytest.mark.parametrize("command", ["train", "label", "evaluate"])
def test_help_shows_keys_and_an_example(run: Run, command: str) -> None:
    """A newcomer would have to read the code."""
    result = run(f"psl.{command}", "--help")
    assert result.returncode == 0
    assert f"python -m psl.{command}" in result.stdout.split("example:")[1]
    assert "loader.threads: Threads per process" in result.stdout


def test_a_key_written_as_a_flag_is_told_without_its_dashes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever comes from another trainer would look for the flag in vain."""
    for words, meant in (
        (["--data.audio=[a]", "epochs=1"], "data.audio=[a], without dashes?"),
        (["--epochs", "3"], "epochs=..., without dashes?"),
    ):
        with pytest.raises(SystemExit, match="2"):
            train.main(words)
        assert f"did you mean {meant}" in capsys.readouterr().err


def test_print_config_shows_the_resolved_config_and_does_nothing(
    run: Run, tmp_path: Path
) -> None:
    """A user could not see what would run."""
    words = [f"run_dir={tmp_path}/r", "data.audio=[a]", "data.valid=v", "seed=7"]
    result = run("psl.train", *words, "--print-config")
    assert result.returncode == 0 and not (tmp_path / "r").exists()
    shown = yaml.safe_load(result.stdout)
    assert shown["seed"] == 7 and shown["optim"]["learning_rate"] == 1e-3
