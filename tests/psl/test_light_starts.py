"""Help, a refused configuration and the state of a run come without torch.

Counts modules, as seconds depend on the machine: on an idle one of 2026 these commands
take 0.2 to 0.5 s, and 3 to 4 s if torch is among them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    *("torch", "accelerate", "torchaudio", "transformers", "deepspeed", "tensorboard"),
    *("matplotlib", "scipy", "pandas", "sklearn", "h5py", "pyarrow", "fsspec", "s3fs"),
)
DECODERS = ("av", "soundfile", "soxr")
PROGRAM = """
import runpy, sys
module, *words = sys.argv[1:]
sys.argv = [module, *words]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    status = 0
except SystemExit as end:
    status = end.code or 0
print(status, *sorted(name for name in sys.modules if "." not in name))
"""
TRAIN = ("run_dir=r", "data.audio=[a]", "data.valid=v")


def modules_of(folder: Path, *words: str, status: int) -> set[str]:
    """The top-level modules that ``python -m WORDS`` has imported when it ends."""
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    found, *names = done.stdout.splitlines()[-1].split()
    assert int(found) == status, done.stderr
    return set(names)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("psl", "--help"), 0),
        (("psl.train", "--help"), 0),
        (("psl.train", "--help", "all"), 0),
        (("psl.train", *TRAIN, "--print-config"), 0),
        (("psl.train", *TRAIN, "epoch=3"), 78),
        (("psl.train", "--epochs", "3"), 2),
        (("psl.label", "--help"), 0),
        (("psl.label", "teachers=x"), 78),
        (("psl.label", "--status", "nowhere"), 78),
        (("psl.evaluate", "--help"), 0),
        (("psl.compare", "--help"), 0),
        (("psl.events", "--help"), 0),
        (("psl.events", "chekpoint=x"), 78),
        (("psl.compare", "one"), 78),
        (("psl.adapting", "--help"), 0),
        (("psl.embed", "--help"), 0),
        (("psl.embed", "m", "a.wav", "--out", "x.csv"), 78),
        (("psl.search", "--help"), 0),
        (("psl.suggest", "e.npz", "--model", "m", "--out", ".", "--number", "0"), 78),
        (("psl.adapting", "runs/x", "--out", "y"), 2),
        (("psl.average", "--help"), 0),
        (("psl.import_checkpoint", "--help"), 0),
        (("psl.teachers",), 0),
        (("psl.teachers", "fetch", "mn44"), 78),
        (("psl.export", "--help"), 0),
        (("psl.export", "run"), 2),
        (("psl.import_labels", "--help"), 0),
        (("psl.calibrate", "--help"), 0),
        (("psl.reorder_labels", "--help"), 0),
        (("psl.label_report", "--help"), 0),
        (("psl.report", "--help"), 0),
        (("psl.review", "--help"), 0),
        (("psl.demo", "--help"), 0),
        (("psl.demo", "nowhere/run"), 78),
        (("psl.init", "--help"), 0),
        (("psl.doctor", "--help"), 0),
        (("psl.status", "nowhere"), 1),
        (("shards.info", "nowhere"), 78),
    ],
)
def test_no_heavy_module_is_imported(
    words: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    """Each look at help, or each typo, would cost seconds, on every rank."""
    assert not modules_of(tmp_path, *words, status=status) & {*HEAVY, *DECODERS}


@pytest.mark.parametrize("command", ["pack", "adopt", "verify", "download"])
def test_help_of_the_data_commands_needs_decoders_at_most(
    command: str, tmp_path: Path
) -> None:
    """As above; these check no configuration first."""
    assert not modules_of(tmp_path, f"shards.{command}", "--help", status=0) & {*HEAVY}


def test_importing_psl_is_light_and_still_builds_models() -> None:
    """A notebook that only reads labels would wait for torch."""
    code = (
        "import sys, psl; assert 'torch' not in sys.modules, 'torch is loaded';"
        "print(sum(p.numel() for p in psl.build_model(num_classes=3).parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2_898_383 - 524 * 1281
