"""Configuration: what is accepted, what is refused and how."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

import psl
from psl import train
from psl.command_line import Command, from_command_line
from psl.config import keys_of, parse, to_yaml
from psl.config_values import override, read_yaml
from psl.evaluation.config import EvaluateConfig
from psl.labelling.config import LabelConfig
from psl.training.config import AverageConfig, TrainConfig
from tests.config_reads import Read, config_classes, reads_in, unread
from tests.conftest import Run
from tests.learning import REPOSITORY

OUTER = ("Outer.seed", "Outer.inner", "Outer.several")
BOTH = ("Inner.seed", "Inner.rate")
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
        ("epochs=0", "epochs = 0: Input should be greater than or equal to 1"),
        ("data.alpha=1.5", "less than or equal to 1"),
        ("data.audio=a", "data.audio = 'a': expected a list, such as data.audio=[a]"),
        ("optim.schedule=cosin", "optim.schedule = 'cosin': Input should be"),
        ("model.width=null", "model.width is empty; give it a value"),
        ("run_dir=", "run_dir is empty; give it a value"),
        ("model.front_end.hop_length=0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(change: str, message: str) -> None:
    """A typo in a config would silently run another experiment."""
    with pytest.raises(ValueError, match="train: ") as error:
        parse(TrainConfig, override(BASE, [change], TrainConfig), where="train")
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


COMMAND = Command("psl.train", purpose="", example="", first=())
CLASSES = (TrainConfig, LabelConfig, EvaluateConfig, AverageConfig)


def test_every_field_is_read_somewhere() -> None:
    """A key that does nothing would be set in vain."""
    reads: set[Read] = set()
    for path in sorted((REPOSITORY / "psl").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        if path.name != "__main__.py":
            module = importlib.import_module(name.removesuffix(".__init__"))
            reads |= reads_in(path.read_text(), module)
    assert not unread(config_classes(CLASSES), reads)


@dataclasses.dataclass(frozen=True)
class Inner:
    """A part of a configuration."""

    seed: int = 0
    rate: int = 1


@dataclasses.dataclass(frozen=True)
class Outer:
    """A configuration whose fields are read, or not, by a text below."""

    seed: int = 0
    inner: Inner | None = None
    several: list[Inner] = dataclasses.field(default_factory=list)


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("config.seed, config.inner.seed", ["Outer.several", "Inner.rate"]),
        ("other.seed, config.several", ["Outer.seed", "Outer.inner", *BOTH]),
        ("[x.rate for x in config.several]", ["Outer.seed", "Outer.inner", BOTH[0]]),
        ("getattr(config, 'seed')", [*OUTER, *BOTH]),
        ("dataclasses.asdict(config)", [*OUTER, *BOTH]),
    ],
)
def test_an_unread_field_is_found(line: str, missing: list[str]) -> None:
    """The test above would pass whatever the fields, as it did for every ``seed``."""
    source = f"def use(config: Outer, other: Other) -> None:\n    {line}\n"
    reads = reads_in(source, sys.modules[__name__])
    assert unread([Outer, Inner], reads) == missing


@pytest.mark.parametrize("cls", config_classes(CLASSES))
def test_every_number_has_bounds(cls: type) -> None:
    """A huge or tiny number would overflow, take all memory, or fail hours later."""
    schemas = TypeAdapter(cls).json_schema(mode="serialization")
    properties = schemas["properties"]
    for field in dataclasses.fields(cls):
        schema = properties[field.name]
        for part in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
            if part.get("type") in ("integer", "number") and "enum" not in part:
                assert part.keys() & {"maximum", "exclusiveMaximum"}, field.name
                assert part.keys() & {"minimum", "exclusiveMinimum"}, field.name


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    """YAML keeps the last one silently."""
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nepochs: 2\nseed: 3\n")
    with pytest.raises(ValueError, match="twice.yaml: line 3: duplicate key 'seed'"):
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
        COMMAND,
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
    nameless = [k.name for k in keys_of(cls) if len(k.text.split("(")[0]) < 8]
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
    from_command_line(TrainConfig, words, COMMAND)


@pytest.mark.parametrize(
    ("command", "most"), [("train", 50), ("label", 40), ("evaluate", 30)]
)
def test_help_shows_the_first_keys_and_all_of_them_on_demand(
    run: Run, command: str, most: int
) -> None:
    """A newcomer would have to read the code, or 290 lines."""
    short, whole = (run(f"psl.{command}", "--help", *w) for w in ([], ["all"]))
    for result in (short, whole):
        assert result.returncode == 0
        assert f"python -m psl.{command}" in result.stdout.split("example:")[1]
    assert len(short.stdout.splitlines()) < most
    assert f"python -m psl.{command} --help all" in short.stdout
    assert "loader.threads: Threads per process" in whole.stdout
    assert "\nloader:\n" in whole.stdout and "\nloader:\n" not in short.stdout


@pytest.mark.parametrize(
    ("script", "typed"),
    [
        ("/venv/bin/psl", "psl train"),
        ("/src/psl/__main__.py", "python -m psl train"),
        ("/src/psl/train.py", "python -m psl.train"),
    ],
)
def test_usage_and_errors_show_what_was_typed(
    script: str,
    typed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Users of psl would be told to run something else."""
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit):
        train.main(["--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {typed} [CONFIG.yaml ...]")
    assert f"\n  {typed} configs/" in out
    with pytest.raises(ValueError, match=f"^{typed}: .*unknown key 'epoch'"):
        train.main(["epoch=1"])


def test_psl_lists_its_commands_in_groups_and_corrects_a_wrong_one(run: Run) -> None:
    """A newcomer would not find the command for what they have."""
    listed = run("psl", "--help")
    assert listed.returncode == 0
    heads = [x for x in listed.stdout.splitlines() if x.endswith(":")]
    assert heads == ["start:", "data:", "teach:", "train:", "use:", "look:"]
    assert re.search("^  tag  ", listed.stdout, re.MULTILINE), "a group hid another"
    wrong = run("psl", "lable")
    assert wrong.returncode == 2 and "did you mean 'label'?" in wrong.stderr


def test_psl_says_its_version_to_whoever_reports_a_bug(run: Run) -> None:
    """They would be told that --version is no command."""
    said = run("psl", "--version")
    assert (said.returncode, said.stdout) == (0, f"psl {psl.__version__}\n")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """'psl teachers --json | head' would end with an error that nobody can cure."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "psl", "teachers", "--json"]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_key_written_as_a_flag_is_told_without_its_dashes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Users of other trainers would look for the flag in vain."""
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


def values_of(*words: str) -> TrainConfig:
    """The configuration that the words ask for, with the keys that are needed."""
    base = ["run_dir=r", "data.audio=[a]", "data.valid=v"]
    return from_command_line(TrainConfig, [*base, *words], COMMAND)


@pytest.mark.parametrize(
    "text",
    [
        *("20261128", "2026-11-28", "1e-3", "0x10", "1:30", "true", "no", "~", "null"),
        *("runs/x #2", "a: b", "s3://b/a::c", "#1", "- a", "[x", "{a}", "'a'", "*a"),
        *("&a", "!x", "%x", "@x", "`x`", "|", ">", " a ", "a=b", "\u00fc\u4e2d", "a,b"),
    ],
)
def test_where_a_string_is_wanted_the_text_is_the_string(text: str) -> None:
    """Two runs would share a folder, or a date or job number could not name one."""
    assert values_of(f"run_dir={text}").run_dir == text


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[a, b]", ["a", "b"]),
        ("[20261128,2026-11-28]", ["20261128", "2026-11-28"]),
        ("[runs/x #2, a: b::c]", ["runs/x #2", "a: b::c"]),
        ("['a, b', \"c\", it's]", ["a, b", "c", "it's"]),
        ("[s3://b/{000,001}.tar, x]", ["s3://b/{000,001}.tar", "x"]),
        ("[null, no]", ["null", "no"]),
        ("[a, ]", ["a"]),
        ('["\\u00fc \\"x\\""]', ['\u00fc "x"']),
    ],
)
def test_the_items_of_a_list_of_strings_are_strings(
    text: str, items: list[str]
) -> None:
    """A folder with a date for a name could not be one of several datasets."""
    assert values_of(f"data.audio={text}").data.audio == items


def test_other_values_are_read_by_what_is_wanted() -> None:
    """A number would become a string, or nothing could be unset."""
    config = values_of(
        *("seed=010", "compile=true", "start=", "patience=null", "data.mix=[1, 2e0]"),
        "data.teacher=[20261128, {path: b: c, weight: 2}]".replace("b: c", "'b: c'"),
        *("data.labels=online", "data.label_settings={batch_size: 64, a: x}"),
        "optim={learning_rate: 1e-4}",
    )
    assert (config.seed, config.compile, config.start) == (10, True, None)
    assert (config.patience, config.data.mix) == (None, [1.0, 2.0])
    assert config.data.teacher is not None
    assert [(t.path, t.weight) for t in config.data.teacher] == [
        ("20261128", 1.0),
        ("b: c", 2.0),
    ]
    assert config.data.label_settings == {"batch_size": 64, "a": "x"}
    assert config.optim.learning_rate == 1e-4


def test_strings_in_files_are_texts_too(tmp_path: Path) -> None:
    """run_dir: 2026-11-28 would be refused as a date."""
    path = tmp_path / "lr=3.yaml"  # a file, for all its equals sign
    path.write_text(
        'run_dir: 2026-11-28\nstart: "null"\n'
        "data: {audio: [20261128, 1e5], labels: null}\n"
        "model: &m {width: 0.5}\noptim: {<<: {warmup_steps: 3}, learning_rate: 1e-4}\n"
    )
    config = from_command_line(TrainConfig, [str(path), "data.valid=v"], COMMAND)
    assert (config.run_dir, config.start) == ("2026-11-28", "null")
    assert (config.data.audio, config.data.labels) == (["20261128", "1e5"], None)
    assert (config.optim.warmup_steps, config.optim.learning_rate) == (3, 1e-4)


@pytest.mark.parametrize(
    "text", ["20261128", "1e-3", "null", "no", "#1", "a: b", "\u00fc", "caf\udce9"]
)
def test_a_string_of_any_form_reads_back_from_the_run_folder(
    text: str, tmp_path: Path
) -> None:
    """A run in such a folder could not resume: its config.yaml would be refused."""
    config = values_of(f"run_dir={text}")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert parse(TrainConfig, read_yaml(path, TrainConfig)) == config


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line .*: more than 20000 values"),
        ("a: &a [*a]\n", "inside each other"),
        ("? [a, b]\n: 1\n", "line 1: a key that is not a string"),
        ("data: " + "[" * 5000 + "]" * 5000, "line 1: more than 20 lists or mappings"),
        ("data: " + "{a: " * 5000, "line 1: more than 20 lists or mappings"),
        ("- " * 5000 + "a", "more than 20 lists or mappings"),
        ("run_dir: !!python/name:os.system x", "line 1: a tag"),
        ("epochs: !!binary aGk=", "line 1: a tag"),
        ("<<: 3\n", "line 1: <<: expected a mapping"),
        ("a: *b\n", "undefined alias"),
        ("a: [1, 2\n", "line 2"),
        ("a: \0", "evil.yaml: .*0"),
        ("x" * (1 << 20) + ": 1", "longer than 1048576 bytes"),
        ("just words", "expected a mapping"),
        ("", "expected a mapping"),
        ("epochs: " + "9" * 5000, "epochs = inf: Input should be"),
        ("k: 1\n" * 2, "line 2: duplicate key 'k'"),
        ("".join(f"k{i}: 1\n" for i in range(5000)), "and 4997 more"),
    ],
)
def test_a_hostile_file_is_refused_in_bounded_time(
    text: str, message: str, tmp_path: Path
) -> None:
    """A config from elsewhere could take all memory, or end in a traceback."""
    path = tmp_path / "evil.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        from_command_line(TrainConfig, [str(path)], COMMAND)
    assert time.process_time() - began < 1
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    "word",
    [
        *(
            "data.chunk_seconds=.inf",
            "data.chunk_seconds=1e-9",
            "data.chunk_seconds=1e30",
        ),
        *("data.chunk_seconds=.nan", "loader.cache_gb=.inf", "loader.cache_gb=1e300"),
        *("loader.threads=1000000", "loader.prefetch=1000000000", "seed=1e400"),
        *(f"epochs={10**30}", f"epochs={'9' * 5000}", "global_batch_size=4294967296"),
        *("model.width=1e9", "model.width=1e-9", "model.last_channels=1000000000"),
        *("model.front_end.n_fft=1000000000", "optim.learning_rate=1e38"),
        *("attempt.timeout_seconds=1e300", "data.mix=[1e308]", "data.alpha=-0.1"),
        *("optim.clip_grad_norm=.nan", "model.front_end.f_max=.inf", "patience=0"),
        *(".".join("a" * 5000) + "=1", "x" * 100_000 + "=1", "=", "a..b=1", "epochs"),
    ],
)
def test_a_number_out_of_bounds_or_a_strange_word_is_one_short_line(word: str) -> None:
    """It would fail after an hour, with a traceback, or hang."""
    began = time.process_time()
    with pytest.raises(ValueError) as error:
        values_of(word)
    assert time.process_time() - began < 1
    assert len(str(error.value)) < 2000


def test_an_unwritable_folder_hides_no_typo(run: Run) -> None:
    """The user would look for a disk error, and the batch script requeue."""
    words = ["run_dir=/proc/no/run", "data.audio=[a]", "data.valid=v", "epoch=3"]
    result = run("psl.train", *words)
    assert result.returncode == 78
    assert "unknown key 'epoch'; did you mean 'epochs'?" in result.stderr
    assert len(result.stderr.splitlines()) == 1
