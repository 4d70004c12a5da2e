"""Run and checkpoint folders from elsewhere: refused in bounded time and memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psl import train
from psl.weights.checkpoint import list_checkpoints, load_checkpoint, load_newest
from psl.weights.result import read_result
from shards.errors import ShardError
from tests.hostile import memory_bound
from tests.learning import tiny_config


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("good")
    train.main(tiny_config(folder, dataset, "epochs=1"))
    return folder / "run"


@pytest.fixture
def run_dir(good: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(good, tmp_path / "run")


def checkpoint_of(run_dir: Path) -> Path:
    (folder,) = list_checkpoints(run_dir)
    return folder


def manifest(folder: Path, **sha256: str) -> None:
    """Name more files in a manifest."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["sha256"] |= sha256
    path.write_text(json.dumps(content))


def reseal(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, and its sha256 in the manifest."""
    (folder / name).write_bytes(data)
    manifest(folder, **{name: hashlib.sha256(data).hexdigest()})


def state(folder: Path, **model: Any) -> None:
    """Change the model in state.json, or if ``classes`` is given the class list."""
    content = json.loads((folder / "state.json").read_text())
    if number := model.pop("num_classes", None):
        names = [str(n) for n in range(number)]
        content["classes"] = {"mids": names, "names": names}
    content["model"] = model.pop("replace", content["model"])
    if front_end := model.pop("front_end", {}):
        content["model"]["front_end"] |= front_end
    content["model"] |= model
    reseal(folder, "state.json", json.dumps(content).encode())


def fifo(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def named_fifo(folder: Path) -> None:
    manifest(folder, extra="00")
    fifo(folder, "extra")


def link(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


def sparse(folder: Path, name: str) -> None:
    with open(folder / name, "r+b") as stream:
        stream.truncate(1 << 42)


def outside(folder: Path, name: str) -> None:
    moved = shutil.move(folder / name, folder.parent / name)
    (folder / name).symlink_to(moved)


BOMB = struct.pack("<Q", 1 << 40) + b"{"
ATTACKS: dict[str, Callable[[Path], None]] = {
    "names a device": lambda f: manifest(f, **{"/dev/zero": "00"}),
    "names a file elsewhere": lambda f: manifest(f, **{"../../config.yaml": "00"}),
    "names a pipe": named_fifo,
    "names itself": lambda f: manifest(f, **{"manifest.json": "00"}),
    "manifest is a device": lambda f: link(f, "manifest.json", "/dev/zero"),
    "manifest is a pipe": lambda f: fifo(f, "manifest.json"),
    "manifest is huge": lambda f: sparse(f, "manifest.json"),
    "manifest of brackets": lambda f: _write(f, "manifest.json", b"[" * 5000),
    "manifest is a list": lambda f: _write(f, "manifest.json", b"[]"),
    "version is infinite": lambda f: _write(
        f, "manifest.json", b'{"format_version": 1e999, "sha256": {}}'
    ),
    "state is a pipe": lambda f: fifo(f, "state.json"),
    "state is huge": lambda f: sparse(f, "state.json"),
    "weights are a pipe": lambda f: fifo(f, "model.safetensors"),
    "weights are huge": lambda f: sparse(f, "model.safetensors"),
    "weights lie outside": lambda f: outside(f, "model.safetensors"),
    "weights of another header": lambda f: reseal(f, "model.safetensors", BOMB),
    "optimizer is a pipe": lambda f: fifo(f, "optimizer.safetensors"),
    "optimizer is a device": lambda f: link(f, "optimizer.safetensors", "/dev/zero"),
    "optimizer is huge": lambda f: sparse(f, "optimizer.safetensors"),
    "model is wide": lambda f: state(f, width=1e5),
    "model is infinite": lambda f: state(f, width=1e999),
    "model has huge tables": lambda f: state(f, front_end={"n_fft": 1 << 40}),
    "model has many mels": lambda f: state(f, front_end={"n_mels": 1 << 30}),
    "more classes": lambda f: state(f, num_classes=4),
    "deep model": lambda f: state(f, replace={"name": "resnet50", "depth": 1e9}),
    "many layers": lambda f: state(f, replace={"name": "ast", "num_layers": 1 << 40}),
    "another model": lambda f: state(f, last_channels=64),
}


def _write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_checkpoint_from_elsewhere_is_refused_in_bounded_memory(
    run_dir: Path, attack: str
) -> None:
    """Whoever tries a stranger's model would lose the machine, or hang for ever."""
    ATTACKS[attack](checkpoint_of(run_dir))
    with memory_bound(1 << 30), pytest.raises(ShardError, match="run"):
        load_checkpoint(run_dir)


def test_a_whole_checkpoint_still_loads(run_dir: Path, good: Path) -> None:
    """The bounds would refuse what they protect."""
    found, expected = load_checkpoint(run_dir), load_newest(good)
    assert expected is not None
    assert found.model_sha256 == expected.model_sha256
    assert found.weights.keys() == expected.weights.keys()


def test_a_checkpoint_folder_on_another_disk_may_be_a_link(
    run_dir: Path, tmp_path: Path
) -> None:
    """Clusters keep checkpoints on a scratch disk, and link the folder."""
    moved = shutil.move(run_dir / "checkpoints", tmp_path / "scratch")
    (run_dir / "checkpoints").symlink_to(moved)
    load_checkpoint(run_dir)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text('{"valid_mAP": NaN}'), "damaged"),
        (lambda path: path.write_text("[" * 10**5), "damaged"),
        (lambda path: os.mkfifo(path), "not a plain file"),
        (lambda path: path.symlink_to("/dev/zero"), "link to|not a plain file"),
    ],
)
def test_a_result_that_is_no_plain_json_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    """A run folder from elsewhere would hang whoever labels with it."""
    damage(tmp_path / "result.json")
    with pytest.raises(ShardError, match=f"result.json: .*({message})"):
        read_result(tmp_path)
