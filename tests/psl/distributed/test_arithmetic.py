"""What a GPU is told to round and to repeat, seen where models compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from psl import average, evaluate, label, train
from psl.distributed.arithmetic import choose_arithmetic
from psl.distributed.config import ArithmeticConfig
from psl.models.mobilenetv2 import MobileNetV2
from psl.training.config import DataConfig, TrainConfig
from psl.training.speed import work_of
from shards.errors import ShardError
from tests.learning import tiny_config

Settings = tuple[bool, bool, bool, bool]
"""cudnn: deterministic, benchmark, TF32; cuBLAS: TF32."""


def settings() -> Settings:
    """What torch has now."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        cudnn.deterministic,
        cudnn.benchmark,
        cudnn.allow_tf32,
        matmul.allow_tf32,
    )


EXACT: Settings = (True, False, True, True)
FAST: Settings = (False, True, True, True)
FAST_ON_CLIPS: Settings = (False, False, True, True)
WORDS = ["arithmetic.deterministic=false"]


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """Other tests, and this one, begin with torch's own settings."""
    before = settings()
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[:2]
    torch.backends.cudnn.allow_tf32 = before[2]
    torch.backends.cuda.matmul.allow_tf32 = before[3]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Settings]]:
    """The settings under which models compute from now on, in training and not."""
    found: dict[str, set[Settings]] = {"training": set(), "scoring": set()}
    forward = MobileNetV2.forward

    def watched(self: MobileNetV2, *inputs: Any) -> Any:
        found["training" if self.training else "scoring"].add(settings())
        return forward(self, *inputs)

    monkeypatch.setattr(MobileNetV2, "forward", watched)
    return found


def test_every_command_computes_as_its_configuration_says(
    tmp_path: Path, dataset: Path, seen: dict[str, set[Settings]]
) -> None:
    """A resumed run on a GPU would not repeat its losses, or nobody could speed it up.

    Clips, of which many have a length of their own, never wait for trials of kernels.
    """

    def settings_seen() -> tuple[set[Settings], set[Settings]]:
        told = seen["training"].copy(), seen["scoring"].copy()
        for each in seen.values():
            each.clear()
        return told

    run = tmp_path / "run"
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    assert settings_seen() == ({EXACT}, {EXACT})
    train.main(tiny_config(tmp_path / "fast", dataset, "epochs=1", *WORDS))
    assert settings_seen() == ({FAST}, {FAST_ON_CLIPS})
    average.main([f"run={run}", "k=1"])
    assert settings_seen() == (set(), {EXACT})
    labels = [f"teacher={run}", f"audio={dataset}", "chunk_seconds=1"]
    label.main([*labels, f"out={tmp_path / 'labels'}"])
    assert settings_seen() == (set(), {EXACT})
    label.main([*labels, f"out={tmp_path / 'fast_labels'}", *WORDS])
    assert settings_seen() == (set(), {FAST})
    scored = [f"checkpoint={run}", f"audio={dataset}"]
    evaluate.main([*scored, f"out={tmp_path / 'eval'}", *WORDS])
    assert settings_seen() == (set(), {FAST_ON_CLIPS})
    evaluate.main([*scored, f"out={tmp_path / 'exact_eval'}"])
    assert settings_seen() == (set(), {EXACT})


def test_tf32_is_of_convolutions_and_of_matrix_products_and_of_gpus_only() -> None:
    """float32 AST would be several times as slow, or a CPU compute other bits."""
    on_cpu: Any = torch.backends.mkldnn
    assert on_cpu.matmul.fp32_precision == "none"
    choose_arithmetic(ArithmeticConfig(tf32=False))
    assert settings() == (True, False, False, False)
    choose_arithmetic(ArithmeticConfig())
    assert settings() == EXACT
    assert on_cpu.matmul.fp32_precision == "none"


def test_a_run_does_not_resume_with_another_rounding_unasked(
    tmp_path: Path, dataset: Path
) -> None:
    """Half of a run would have other losses, and nothing would say so."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    words = ["epochs=2", "arithmetic.tf32=false"]
    with pytest.raises(ValueError, match=r"accept_changes=\[arithmetic.tf32\]"):
        train.main(tiny_config(tmp_path, dataset, *words))


def test_labels_of_another_rounding_are_other_labels(
    tmp_path: Path, dataset: Path
) -> None:
    """One folder would mix labels with other last digits, by who resumed it."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    words = [f"teacher={tmp_path / 'run'}", f"audio={dataset}", "chunk_seconds=1"]
    words.append(f"out={tmp_path / 'labels'}")
    label.main(words)
    with pytest.raises(ShardError, match="made with tf32 = None, not False"):
        label.main([*words, "arithmetic.tf32=false"])


def test_no_share_of_the_tf32_peak_is_told_of_a_run_without_tf32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An MFU would be of a peak that the run could not reach."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    monkeypatch.setattr(
        "psl.training.speed.step_cost",
        lambda *_: type("Cost", (), {"flops_per_chunk": 1})(),
    )

    def peak(**values: Any) -> float | None:
        data = DataConfig(audio=["a"], valid="v")
        config = TrainConfig(run_dir=str(tmp_path), data=data, **values)
        device = torch.device("cuda")
        return work_of(config, 3, 16000, num_processes=1, device=device).peak_flops

    assert peak() == 60e12
    assert peak(arithmetic=ArithmeticConfig(tf32=False)) is None
    assert peak(arithmetic=ArithmeticConfig(tf32=False), precision="bf16") == 121e12
