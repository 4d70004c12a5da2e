"""DeepSpeed's ZeRO-1, 2 and 3: the same training, the same checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from psl.job.status import read_status
from psl.weights.checkpoint import checkpoint_folder, load_checkpoint
from tests.jobs import Job, start
from tests.learning import TINY_MODEL, losses, tiny_config, torchrun
from tests.tiny_models import TINY

pytest.importorskip("deepspeed")

STRATEGIES = ("zero1", "zero2", "zero3")
STEPS = 6
"""Of an epoch; the checkpoint from which other runs go on is the first epoch's."""
DROPOUTS = {
    "cnn14": ["conv_dropout", "dropout"],
    "efficientnet_b0": ["dropout", "drop_connect"],
    "resnet50": ["dropout"],
    "ast": ["dropout"],
}
"""What each family drops, which differs from rank to rank."""
PATIENT = 300
"""A job on a busy machine may take so long, s."""


def go(
    folder: Path,
    dataset: Path,
    strategy: str,
    *words: str,
    ranks: int = 2,
    fault: str | None = None,
    model: Mapping[str, Any] = TINY_MODEL,
) -> Job:
    """A job with fixed BatchNorm statistics, on which all strategies agree.

    zero3 comes from a DeepSpeed file, as accelerate launch hands it on, since by
    default weights as few as the tiny model's are not split.
    """
    config = tiny_config(folder, dataset, "save_every=4", *words, model=model)
    environment: dict[str, str] | None = None
    extensions = {"TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    if strategy == "zero3":
        values = json.loads(Path("launch/deepspeed/zero3.json").read_text())
        values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        file = folder / "zero3.json"
        file.write_text(json.dumps(values))
        environment = {**extensions, "ACCELERATE_USE_DEEPSPEED": "true"}
        environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(file)
    elif strategy != "ddp":
        environment = extensions
        config.append(f"strategy={strategy}")
    return start(
        folder,
        config,
        ranks=ranks,
        fault=fault,
        fixed_statistics=True,
        environment=environment,
    )


def done(job: Job) -> None:
    """Wait for a job that is to succeed."""
    codes = job.wait(PATIENT)
    assert codes == [0] * len(codes), job.output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A folder with a finished run of two epochs for each strategy, and for a process
    alone; that of zero2 takes its share of a batch in two parts.
    """
    folder = tmp_path_factory.mktemp("whole")
    done(go(folder / "alone", dataset, "ddp", ranks=1))
    for strategy in STRATEGIES:
        parts = "accumulation_steps=" + ("2" if strategy == "zero2" else "1")
        done(go(folder / strategy, dataset, strategy, parts))
    return folder


def begun(whole: Path, folder: Path) -> Path:
    """A copy in ``folder`` of a run as it was after its first epoch."""
    shutil.copytree(whole / "run", folder / "run")
    for path in (folder / "run" / "checkpoints").iterdir():
        if path.name != f"step_{STEPS:08d}":
            shutil.rmtree(path)
    for name in ("metrics.jsonl", "result.json", "status.json"):
        (folder / "run" / name).unlink()
    return folder


def tensors(run: Path, step: int, file: str) -> dict[str, torch.Tensor]:
    """What the safetensors ``file`` of a checkpoint holds."""
    from safetensors.torch import load_file

    return load_file(checkpoint_folder(run / "run", step) / file)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_zero_trains_as_a_process_alone_does(whole: Path, strategy: str) -> None:
    """Who turns it on to save memory would get another model."""
    found, expected = losses(whole / strategy / "run"), losses(whole / "alone" / "run")
    assert list(found) == list(range(1, 2 * STEPS + 1))
    assert found == pytest.approx(expected, rel=1e-5)  # 2e-7 on the CPU
    config = yaml.safe_load((whole / strategy / "run" / "config.yaml").read_text())
    assert config["strategy"] == strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_checkpoint_of_zero_is_that_of_plain_pytorch(
    whole: Path, strategy: str
) -> None:
    """A part of the weights, or of Adam's state, would be saved as all of it."""
    model = load_checkpoint(
        checkpoint_folder(whole / strategy / "run", 2 * STEPS)
    ).build_model()
    alone = load_checkpoint(
        checkpoint_folder(whole / "alone" / "run", 2 * STEPS)
    ).build_model()
    clip = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) / 10
    assert torch.allclose(model(clip)[0], alone(clip)[0], atol=1e-4)
    state = tensors(whole / strategy, 2 * STEPS, "optimizer.safetensors")
    plain = tensors(whole / "alone", 2 * STEPS, "optimizer.safetensors")
    assert {n: t.shape for n, t in state.items()} == {
        n: t.shape for n, t in plain.items()
    }
    assert state["0.step"] == 2 * STEPS
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.load_state_dict(
        {**optimizer.state_dict(), "state": _by_number(state)}
    )  # torch itself checks nothing but the count
    for parameter, values in optimizer.state.items():
        assert values["exp_avg_sq"].shape == parameter.shape
        assert (values["exp_avg_sq"] >= 0).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_zero_starts_without_a_compiler(whole: Path, strategy: str) -> None:
    """The first start on a machine would take minutes, or fail for want of one."""
    assert not (whole / strategy / "extensions").exists()


@pytest.mark.parametrize(
    "name",
    ["cnn14", *(pytest.param(n, marks=pytest.mark.slow) for n in list(DROPOUTS)[1:])],
)
def test_a_family_trains_on_two_ranks_as_alone(
    name: str, tmp_path: Path, dataset: Path
) -> None:
    """The large models, for which people need several GPUs, would hang there, or learn
    something else.
    """
    off = dict.fromkeys(DROPOUTS[name], 0.0)
    model = {"name": name, **TINY[name], **off}
    jobs = {"one": ("ddp", 1), "two": ("ddp", 2), "split": ("zero2", 2)}
    for folder, (strategy, ranks) in jobs.items():
        path = tmp_path / folder
        done(go(path, dataset, strategy, "epochs=1", ranks=ranks, model=model))
    expected = losses(tmp_path / "one" / "run")
    assert list(expected) == list(range(1, STEPS + 1))
    for folder in ("two", "split"):
        found = losses(tmp_path / folder / "run")
        assert found == pytest.approx(expected, rel=1e-5), folder


def _by_number(state: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    numbered: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        number, _, field = name.partition(".")
        numbered.setdefault(int(number), {})[field] = tensor
    return numbered


def test_all_stages_compute_the_same_in_the_same_layout(whole: Path) -> None:
    """A stage that forgot a part of the gradient would pass for rounding."""
    one, three = losses(whole / "zero1" / "run"), losses(whole / "zero3" / "run")
    assert one == pytest.approx(three, rel=1e-6)
    first = tensors(whole / "zero1", STEPS, "optimizer.safetensors")
    third = tensors(whole / "zero3", STEPS, "optimizer.safetensors")
    for name, tensor in first.items():
        assert torch.allclose(tensor, third[name], rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_a_run_under_zero_goes_on_bit_for_bit(
    whole: Path, tmp_path: Path, dataset: Path, strategy: str
) -> None:
    """A preempted run would end with another model than one that was left alone."""
    folder = begun(whole / strategy, tmp_path)
    parts = "accumulation_steps=" + ("2" if strategy == "zero2" else "1")
    done(go(folder, dataset, strategy, parts))
    expected = losses(whole / strategy / "run")
    found = losses(folder / "run")
    assert found == {step: expected[step] for step in range(STEPS + 1, 2 * STEPS + 1)}
    for file in ("model.safetensors", "optimizer.safetensors"):
        before = tensors(whole / strategy, 2 * STEPS, file)
        for name, tensor in tensors(folder, 2 * STEPS, file).items():
            assert torch.equal(tensor, before[name]), name


def test_the_moving_average_under_zero_is_that_of_plain_pytorch(
    tmp_path: Path, dataset: Path
) -> None:
    """What is evaluated would be another model, or only a rank's part of one."""
    words = ["optim.ema_decay=0.5", "epochs=1"]
    done(go(tmp_path / "alone", dataset, "ddp", *words, ranks=1))
    done(go(tmp_path / "split", dataset, "zero2", *words))
    expected = tensors(tmp_path / "alone", STEPS, "model.safetensors")
    found = tensors(tmp_path / "split", STEPS, "model.safetensors")
    trained = tensors(tmp_path / "split", STEPS, "trained.safetensors")
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-4), name
    name = "classifier.1.weight"
    assert not torch.allclose(found[name], trained[name], atol=1e-4)
    job = go(tmp_path / "three", dataset, "zero3", *words)
    assert job.wait(PATIENT) == [78, 78] and "use strategy zero2" in job.output


@pytest.mark.parametrize(
    "strategy", ["zero2", pytest.param("zero3", marks=pytest.mark.slow)]
)
def test_groups_of_parameters_under_zero_are_those_of_plain_pytorch(
    tmp_path: Path, dataset: Path, strategy: str
) -> None:
    """Layers would learn at others' rates, or go on with others' moments."""
    words = ["optim.layer_decay=0.8", "optim.name=adamw", "optim.weight_decay=0.1"]
    done(go(tmp_path / "alone", dataset, "ddp", *words, ranks=1))
    folder = tmp_path / "split"
    done(go(folder, dataset, strategy, *words))
    expected = losses(tmp_path / "alone" / "run")
    assert losses(folder / "run") == pytest.approx(expected, rel=1e-5)
    first = tensors(tmp_path / "alone", STEPS, "optimizer.safetensors")
    found = tensors(folder, STEPS, "optimizer.safetensors")
    for name, tensor in first.items():
        assert torch.allclose(found[name], tensor, rtol=1e-3, atol=1e-6), name
    done(go(begun(folder, tmp_path / "again"), dataset, strategy, *words))
    again = losses(tmp_path / "again" / "run")
    assert again == {step: losses(folder / "run")[step] for step in again}


@pytest.mark.parametrize(
    ("before", "after", "ranks"),
    [
        pytest.param("zero2", "zero2", 1, id="zero2 on 2 -> zero2 on 1"),
        pytest.param("zero2", "ddp", 1, id="zero2 on 2 -> a process alone"),
        pytest.param("alone", "zero3", 2, id="a process alone -> zero3 on 2"),
    ],
)
def test_a_run_goes_on_with_another_strategy_and_world_size(
    whole: Path, tmp_path: Path, dataset: Path, before: str, after: str, ranks: int
) -> None:
    """A smaller machine, or one without DeepSpeed, could not finish the run.

    The first loss goes by the weights, those after it by Adam's state, too.
    """
    folder = begun(whole / before, tmp_path)
    done(go(folder, dataset, after, ranks=ranks))
    expected, found = losses(whole / before / "run"), losses(folder / "run")
    assert list(found) == list(range(STEPS + 1, 2 * STEPS + 1))
    for step, loss in found.items():
        assert loss == pytest.approx(expected[step], rel=1e-5), step


def test_a_rank_killed_under_zero_ends_the_job_and_the_next_goes_on(
    whole: Path, tmp_path: Path, dataset: Path
) -> None:
    """ZeRO's ranks need each other in every layer: all would wait for ever."""
    fault = "rank=1,step=6,point=step,action=kill"
    job = go(tmp_path, dataset, "zero3", fault=fault)
    assert job.wait(PATIENT) == [1, -9], job.output
    assert read_status(tmp_path / "run").step == 4  # type: ignore[union-attr]
    done(go(tmp_path, dataset, "zero3"))
    assert losses(tmp_path / "run") == losses(whole / "zero3" / "run")


def test_bf16_keeps_float32_weights_and_learns_as_without_deepspeed(
    whole: Path, tmp_path: Path, dataset: Path
) -> None:
    """DeepSpeed's own bf16 rounds the weights, and autocast outside it does nothing."""
    words = ["precision=bf16", "epochs=1"]
    done(go(tmp_path / "plain", dataset, "ddp", *words))
    done(go(tmp_path / "split", dataset, "zero3", *words))
    plain, split = (
        losses(tmp_path / "plain" / "run"),
        losses(tmp_path / "split" / "run"),
    )
    exact = losses(whole / "zero3" / "run")
    assert split == pytest.approx(plain, rel=2e-2)
    assert any(abs(split[step] / exact[step] - 1) > 1e-5 for step in split)
    weights = tensors(tmp_path / "split", STEPS, "model.safetensors")
    weight = weights["classifier.1.weight"]
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())


def test_a_teacher_of_transformers_looks_along_under_zero3(
    tmp_path: Path, dataset: Path
) -> None:
    """Transformers under ZeRO-3 would split the teacher's weights, too, and fail."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"max_length": 64, "num_mel_bins": 32}
    names = {0: "Tone mid", 1: "Tone low", 2: "Tone high"}
    settings = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        problem_type="multi_label_classification",
        **size,
    )
    teacher = tmp_path / "ast"
    transformers.ASTForAudioClassification(settings).save_pretrained(teacher)
    transformers.ASTFeatureExtractor(**size).save_pretrained(teacher)
    words = ["epochs=1", "data.labels=online", f"data.teacher={teacher}"]
    done(go(tmp_path / "alone", dataset, "ddp", *words, ranks=1))
    done(go(tmp_path / "split", dataset, "zero3", *words))
    found, expected = (losses(tmp_path / name / "run") for name in ("split", "alone"))
    assert list(found) == list(range(1, STEPS + 1))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "strategy",
    ["ddp", pytest.param("zero1", marks=pytest.mark.slow), "zero2", "zero3"],
)
def test_a_gradient_that_is_not_finite_on_a_rank_is_told_to_all(strategy: str) -> None:
    """DeepSpeed leaves the update out and says nothing; the run would learn nothing."""
    result = torchrun(2, "tests.zero_gradient", strategy)
    assert result.returncode == 0, result.stderr
    told = re.findall(r"problem: gradient norm is (?:\w+, )?not finite", result.stdout)
    assert len(told) == 2  # PyTorch knows its value, DeepSpeed does not
    assert result.stdout.count("then it goes on") == 2
