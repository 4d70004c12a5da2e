"""Checkpoints: complete or absent, and nothing in them needs unpickling.

A checkpoint may come from anyone: every file is a plain one in its folder, and no
larger than its model is, before it is read.

Owns the folder format: ``model.safetensors`` (parameters and buffers to evaluate and
label with), ``trained.safetensors`` (those to train on with, where they are others: see
psl/training/averages.py), ``optimizer.safetensors`` (tensors of the optimizer's state),
``state.json`` (what the model is, where training stands) and ``manifest.json`` (format
version, sha256 of the others).
"""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import save
from torch import Tensor, nn

from psl.data.checks import check_fits
from psl.models.config import ModelConfig
from psl.models.families import build_from_config
from psl.weights.files import MAX_BYTES, parse_safetensors, read_shapes
from psl.weights.result import read_result
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import Index
from shards.format.schema import parse_json
from shards.system.exits import JobError
from shards.system.files import (
    folder_atomic,
    open_plain,
    read_plain,
    remove_folder,
    sha256_of,
    write_synced,
)

FORMAT_VERSION = 2
"""1 had no manifest.json, and its state.json no checksum."""
FOLDER_NAME, AVERAGE_NAME = "checkpoints", "average"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_TRAINED = "trained.safetensors"
_MANIFEST = "manifest.json"
_MAX_BYTES = {
    _MODEL: MAX_BYTES,
    _TRAINED: MAX_BYTES,
    _OPTIMIZER: 3 * MAX_BYTES,
    _STATE: 64 << 20,
    _MANIFEST: 1 << 20,
}
"""All files that a checkpoint may have; a longer one is refused."""
_MAX_SETTINGS = {"n_fft": 1 << 16, "n_mels": 1 << 12, "sample_rate": 1 << 20}
"""Of a front end; its tables have n_fft / 2 times n_mels values."""


@dataclass(frozen=True)
class TrainingState:
    """Where training stands; everything else is derived from it and the seed."""

    epoch: int
    """Epochs completed."""
    step_in_epoch: int
    """Optimizer steps done in the epoch after those."""
    history: tuple[tuple[int, float], ...]
    """Optimizer steps done and validation mAP, of each validation so far."""
    plan_fingerprint: str
    """Of the order of chunks; another order cannot be resumed."""
    skipped_steps: int = 0
    """Steps so far that updated nothing, their loss or gradient not being finite."""
    loss_sum: float = 0.0
    """Of the losses of the ``loss_steps`` updates since the last record of the loss."""
    loss_steps: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, read and checked."""

    folder: Path
    model_config: ModelConfig
    classes: Classes
    training: TrainingState
    model_sha256: str
    weights: dict[str, Tensor]

    def build_model(self) -> nn.Module:
        """The model with its weights, in evaluation mode."""
        model = build_from_config(self.model_config, len(self.classes))
        model.load_state_dict(self.weights)
        return model.eval()


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: dict[str, Tensor],
    model_config: ModelConfig,
    classes: Classes,
    training: TrainingState,
    trained: nn.Module | None = None,
    before_last: Callable[[], None] = lambda: None,
) -> None:
    """Write ``folder`` aside, then give it its name. One rank only.

    ``model`` must be whole, ``optimizer`` as ``optimizer_tensors`` of
    psl/training/optim.py gives it. ``trained`` is what training continues with, if not
    ``model``. ``before_last`` is called when only the manifest is missing.
    """
    files = {_MODEL: save(_contiguous(model.state_dict())), _OPTIMIZER: save(optimizer)}
    if trained is not None:
        files[_TRAINED] = save(_contiguous(trained.state_dict()))
    state = {
        "model": TypeAdapter(ModelConfig).dump_python(model_config),
        "classes": asdict(classes),
        "training": asdict(training),
    }
    files[_STATE] = json.dumps(state, indent=1, allow_nan=False).encode()
    manifest = {
        "format_version": FORMAT_VERSION,
        "sha256": {name: sha256_of(data) for name, data in files.items()},
    }
    with folder_atomic(folder) as aside:
        for name, data in files.items():
            write_synced(aside / name, data)
        before_last()
        write_synced(aside / _MANIFEST, json.dumps(manifest, indent=1))


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at ``path``: a checkpoint folder, or that of a run.

    A run stands for its average, if result.json has one, or else for its best one.

    Raises ShardError if there is none, or it is damaged, and ValueError if another
    version of this program wrote it.
    """
    path = Path(path)
    folder = path if _is_checkpoint(path) else _best(path)
    sha256 = _read_manifest(folder)
    try:
        state = parse_json(
            _read_checked(folder, _STATE, sha256), where=str(folder / _STATE)
        )
        classes = state["classes"]
        config: ModelConfig = TypeAdapter(ModelConfig).validate_python(state["model"])
        checkpoint = Checkpoint(
            folder=folder,
            model_config=config,
            classes=Classes(tuple(classes["mids"]), tuple(classes["names"])),
            training=TypeAdapter(TrainingState).validate_python(state["training"]),
            model_sha256=sha256[_MODEL],
            weights={},
        )
        _check_model(checkpoint)
        weights = _read_tensors(folder, _MODEL, sha256)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ShardError(f"{folder}: damaged checkpoint: {_reason(error)}") from None
    return replace(checkpoint, weights=weights)


def _reason(error: Exception) -> str:
    """What went wrong, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _check_model(checkpoint: Checkpoint) -> None:
    """ValueError unless the weights are those of the model in state.json.

    By the shapes alone, so that nothing large is built or read before it is known to
    fit.
    """
    shapes = read_shapes(checkpoint.folder, _MODEL)
    config = checkpoint.model_config
    for part in (asdict(config), asdict(config.front_end)):
        layers = {"num_layers": len(shapes), "depth": len(shapes)}
        for name, most in (_MAX_SETTINGS | layers).items():
            if name in part and part[name] > most:
                raise ValueError(f"{name} = {part[name]} in {_STATE}, expected {most}")
    expected = _expected_shapes(config, len(checkpoint.classes))
    for name in sorted(expected.keys() | shapes.keys()):
        if shapes.get(name) != expected.get(name):
            raise ValueError(
                f"{name!r:.100} has shape {shapes.get(name)} in {_MODEL}, expected "
                f"{expected.get(name)} for the model of {_STATE}"
            )


@functools.lru_cache(maxsize=8)
def _expected_shapes(config: ModelConfig, num_classes: int) -> dict[str, list[int]]:
    """The shapes of a model's weights; takes no memory for them."""
    with torch.device("meta"):
        model = build_from_config(config, num_classes)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def _read_manifest(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a checkpoint.

    Raises ValueError for another format version, else ShardError.
    """
    path = folder / _MANIFEST
    if not path.exists() and (folder / _STATE).exists():
        raise ValueError(_other_version(folder, 1))
    try:
        data = read_plain(folder, _MANIFEST, max_bytes=_MAX_BYTES[_MANIFEST])
        manifest = parse_json(data, where=str(path))
        version = int(manifest["format_version"])
        sha256 = TypeAdapter(dict[str, str]).validate_python(manifest["sha256"])
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ShardError(f"{path}: damaged checkpoint: {_reason(error)}") from None
    if version != FORMAT_VERSION:
        raise ValueError(_other_version(folder, version))
    known = _MAX_BYTES.keys() - {_MANIFEST}
    if strange := sorted(sha256.keys() - known):
        raise ShardError(
            f"{path}: names {strange[0]!r:.100}, expected only "
            f"{', '.join(sorted(known))}; restore the checkpoint"
        )
    if absent := {_MODEL, _STATE} - sha256.keys():
        raise ShardError(f"{path}: damaged checkpoint: does not name {min(absent)}")
    return sha256


def _other_version(folder: Path, version: int) -> str:
    return (
        f"{folder}: checkpoint format {version}, expected {FORMAT_VERSION}; use the "
        "version of this program that wrote it, or start a new run"
    )


def _read_checked(folder: Path, name: str, sha256: dict[str, str]) -> bytes:
    """The bytes of a file; ShardError unless they are those of the manifest."""
    data = read_plain(folder, name, max_bytes=_MAX_BYTES[name])
    if sha256_of(data) != sha256[name]:
        raise ShardError(_differs(folder / name))
    return data


def _differs(path: Path) -> str:
    return f"{path}: bytes differ from the sha256 in {_MANIFEST}"


def _read_tensors(folder: Path, name: str, sha256: dict[str, str]) -> dict[str, Tensor]:
    data = _read_checked(folder, name, sha256)
    return parse_safetensors(data, str(folder / name))


def load_optimizer(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The optimizer tensors of a checkpoint, by ``<parameter number>.<name>``.

    Raises ValueError if the checkpoint was saved without them.
    """
    sha256 = _read_manifest(checkpoint.folder)
    if _OPTIMIZER not in sha256:
        raise ValueError(
            f"{checkpoint.folder}: an older version saved it under DeepSpeed, without "
            "optimizer state, and it cannot be resumed; choose another run_dir"
        )
    return _read_tensors(checkpoint.folder, _OPTIMIZER, sha256)


def load_trained(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The parameters and buffers that training continues with."""
    sha256 = _read_manifest(checkpoint.folder)
    if _TRAINED not in sha256:
        return checkpoint.weights
    return _read_tensors(checkpoint.folder, _TRAINED, sha256)


def newest_step(run_dir: str | Path) -> int:
    """Optimizer steps in the newest checkpoint, damaged or not; 0 for none."""
    folders = list_checkpoints(run_dir)
    return int(folders[-1].name.removeprefix("step_")) if folders else 0


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """The checkpoints of a run, damaged ones too, oldest first."""
    folders = Path(run_dir, FOLDER_NAME).glob("step_*")
    return sorted(folder for folder in folders if _is_checkpoint(folder))


def _is_checkpoint(folder: Path) -> bool:
    return (folder / _MANIFEST).exists() or (folder / _STATE).exists()


def checkpoint_folder(run_dir: str | Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return Path(run_dir, FOLDER_NAME, f"step_{step:08d}")


def load_newest(run_dir: str | Path) -> Checkpoint | None:
    """The newest checkpoint that is not damaged; None for a fresh run.

    Warns about each damaged one it passes over; raises ShardError if all are.
    """
    folders, found = list_checkpoints(run_dir), ""
    for folder in reversed(folders):
        try:
            checkpoint = load_checkpoint(folder)
            _check_files(folder)
            return checkpoint
        except ShardError as error:
            found = found or str(error)
            warnings.warn(f"{error}; falling back to the one before", stacklevel=2)
    if folders:
        raise ShardError(
            f"{run_dir}: every checkpoint is damaged (the newest: {found}); start a "
            "new run"
        )
    return None


def _check_files(folder: Path) -> None:
    """ShardError if what load_checkpoint does not read is missing or damaged."""
    sha256 = _read_manifest(folder)
    for name in sha256.keys() - {_MODEL, _STATE}:
        with open_plain(folder, name, max_bytes=_MAX_BYTES[name]) as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != sha256[name]:
            raise ShardError(_differs(folder / name))


def best_steps(history: Iterable[tuple[int, float]], keep: int) -> list[int]:
    """Steps of the ``keep`` best validations, best first; ties to the earlier."""
    ranked = sorted(history, key=lambda entry: (-entry[1], entry[0]))
    return [step for step, _ in ranked[:keep]]


def _best(run_dir: Path) -> Path:
    result = read_result(run_dir)
    if result is not None and result.average is not None:
        return run_dir / FOLDER_NAME / AVERAGE_NAME
    newest = load_newest(run_dir)
    if newest is None:
        raise ShardError(
            f"{run_dir}: no checkpoint there; expected a run folder or one of its "
            f"{FOLDER_NAME}/step_* folders"
        )
    for step in best_steps(newest.training.history, 1):
        return checkpoint_folder(run_dir, step)
    return newest.folder


def prune_checkpoints(
    run_dir: str | Path, history: Iterable[tuple[int, float]], keep_best: int
) -> None:
    """Remove all but the newest two checkpoints and the best ``keep_best``."""
    best = {checkpoint_folder(run_dir, step) for step in best_steps(history, keep_best)}
    for folder in list_checkpoints(run_dir)[:-2]:
        if folder not in best:
            remove_folder(folder)


def assert_finite(model: nn.Module) -> None:
    """JobError naming the first weight or statistic that is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise JobError(f"{name} is not finite; nothing was saved")


def check_checkpoint_fits(index: Index, checkpoint: Checkpoint) -> None:
    """ValueError unless ``checkpoint`` can be used on the audio of ``index``."""
    check_fits(
        index,
        sample_rate=checkpoint.model_config.front_end.sample_rate,
        classes=checkpoint.classes,
        what=str(checkpoint.folder),
    )
