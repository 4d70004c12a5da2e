"""What is run for the golden values, and how: command lines, and the files they leave.

Knows no module of psl or shards but the commands, so that it outlives any move of code.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from safetensors.numpy import load_file

from tests.golden.material import Source, write_source, write_teacher

REPOSITORY = Path(__file__).parents[2]
STEPS = 12
SECONDS = 300
"""For one command, on a machine that does other things as well."""

INHERITED = ("HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
"""All that a command sees of the caller's environment: no launcher, no GPU."""
PINNED = {
    "CUDA_VISIBLE_DEVICES": "",
    # one thread: sums are taken in one order
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # the instructions that every x86-64 CPU has, in the libraries that choose by CPU
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    # exp, sin and the like of glibc have variants with fused multiply-add
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F",
}
"""What keeps bits from depending on the CPU."""

UNHASHED_FILES = ("made.json",)
"""It has dates."""
UNHASHED_PROVENANCE = ("packed_by", "labelled_by")
"""Fields of index.json that name the version of the program."""

TINY_MODEL = (
    *("model.width=0.25", "model.last_channels=32", "model.time_stride=16"),
    *("model.dropout=0.3", "model.front_end.n_fft=1024"),
    *("model.front_end.hop_length=320", "model.front_end.n_mels=32"),
    "model.front_end.std_db=20.0",
)
TRAINING = (
    *("optim.learning_rate=1e-5", "data.chunk_seconds=1.0", "global_batch_size=8"),
    *("epochs=2", "log_every=1", "loader.threads=1"),
)
"""48 chunks of 1 s in an epoch, so 6 steps. The learning rate is small, so that what
rounding does stays small: at 6e-3, with other instructions losses differed by 20 %
within 12 steps."""
EMA_MIXUP = (
    *("optim.ema_decay=0.9", "augment.mixup_alpha=0.5", "augment.crop=random"),
    *("augment.gain_db=6", "augment.roll_seconds=0.2"),
    *("augment.time_masks=1", "augment.time_mask_seconds=0.2"),
    *("augment.frequency_masks=1", "augment.frequency_mask_share=0.2"),
)


def measure(folder: Path) -> dict[str, Any]:
    """Run everything in ``folder``, and give all that golden.json holds of it."""
    source = write_source(folder / "source")
    teacher = write_teacher(folder / "teacher.pt")
    wav, flac = (_pack(source, folder / codec, codec) for codec in ("wav", "flac"))
    labels = _label(teacher, wav, folder / "labels")
    online = ("data.labels=online", f"data.teacher={teacher}")
    runs = {
        "weak": _train(wav, folder / "weak"),
        "stored": _train(wav, folder / "stored", f"data.labels=[{labels}]"),
        "online": _train(wav, folder / "online", *online, "data.alpha=0.5"),
        "ema_mixup": _train(wav, folder / "ema_mixup", *EMA_MIXUP),
        "two_ranks": _train(wav, folder / "two_ranks", ranks=2),
    }
    return {
        "files": {each.name: file_digests(each) for each in (wav, flac, labels)},
        "pcm": {each.name: pcm_digest(each) for each in (wav, flac)},
        "labels": dict(_label_values(labels)),
        "runs": {name: outcome(run_dir) for name, run_dir in runs.items()},
    }


def _pack(source: Source, out: Path, codec: str) -> Path:
    words = ["--audio", source.audio, "--segments", source.segments]
    words += ["--class-labels", source.class_labels, "--out", out, "--codec", codec]
    _run("shards.pack", *words, "--workers", 1, "--clips-per-shard", 8)
    return out


def _label(teacher: Path, audio: Path, out: Path) -> Path:
    words = [f"teacher={teacher}", f"audio={audio}", f"out={out}", "chunk_seconds=1"]
    _run("psl.label", *words, "batch_size=8", "loader.threads=1")
    return out


def _train(audio: Path, run_dir: Path, *more: str, ranks: int = 1) -> Path:
    words = [f"run_dir={run_dir}", f"data.audio=[{audio}]", f"data.valid={audio}"]
    _run("psl.train", *words, *TINY_MODEL, *TRAINING, *more, ranks=ranks)
    return run_dir


def _run(module: str, *words: object, ranks: int = 1) -> None:
    """``python -m MODULE WORDS`` in ``ranks`` processes that meet over gloo.

    Raises RuntimeError with what a process wrote if it fails.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    base = {name: os.environ[name] for name in INHERITED if name in os.environ}
    port = _free_port()
    processes = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**base, **PINNED, **_rank(rank, ranks, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            if process.returncode:
                raise RuntimeError(f"{' '.join(command)}:\n{output}")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would tell a process of more than one."""
    if ranks == 1:
        return {}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place = {"RANK": rank, "LOCAL_RANK": rank}
    place |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return address | {name: str(value) for name, value in place.items()}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a dataset; index.json without the program's version."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "index.json":
            index = json.loads(data)
            for name in UNHASHED_PROVENANCE:
                index["provenance"].pop(name, None)
            data = json.dumps(index).encode()
        if path.name not in UNHASHED_FILES:
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def _members(folder: Path, kinds: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the members of all tars that end in ``kinds``, in order."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(kinds):
                    continue
                stream = tar.extractfile(member)
                assert stream is not None
                yield member.name, stream.read()


def pcm_digest(folder: Path) -> str:
    """sha256 of the samples of all clips, whatever they are coded in."""
    digest = hashlib.sha256()
    for _, data in _members(folder, (".wav", ".flac")):
        samples, _ = soundfile.read(io.BytesIO(data), dtype="int16")
        digest.update(samples.astype("<i2").tobytes())
    return digest.hexdigest()


def _label_values(folder: Path) -> Iterator[tuple[str, list[float]]]:
    """The probabilities [K * C] of each clip, float16 and so exact in JSON."""
    for name, data in _members(folder, (".npy",)):
        yield name, np.load(io.BytesIO(data)).ravel().tolist()


def outcome(run_dir: Path) -> dict[str, Any]:
    """What a run learned: its losses and mAPs as hex, and its last weights."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [float(r["loss"]).hex() for r in records if "loss" in r]
    assert len(losses) == STEPS, f"{run_dir}: {len(losses)} losses, expected {STEPS}"
    weights = load_file(run_dir / f"checkpoints/step_{STEPS:08d}/model.safetensors")
    return {
        "losses": losses,
        "valid_mAP": [float(r["valid_mAP"]).hex() for r in records if "valid_mAP" in r],
        "weights_sha256": _weights_digest(weights),
        "weights_norm": _norm(weights).hex(),
    }


def _weights_digest(weights: Mapping[str, np.ndarray]) -> str:
    """sha256 of the names, types, shapes and values of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _norm(weights: Mapping[str, np.ndarray]) -> float:
    """The root of the sum of squares of all floats, rounded once."""
    floats = (tensor for tensor in weights.values() if tensor.dtype.kind == "f")
    return math.sqrt(math.fsum(float(x) ** 2 for each in floats for x in each.ravel()))
