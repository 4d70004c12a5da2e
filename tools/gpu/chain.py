"""What tools/gpu/check.py tries of the product: its own commands, and what to expect.

Owns the audio (square waves, so that chunks differ and no package is needed to make
them) and the tolerances. Speeds are tools/gpu/speeds.py's.
"""

from __future__ import annotations

import importlib.util
import json
import time
import wave
from pathlib import Path
from typing import Any

from tools.gpu.runner import (
    REPOSITORY,
    WITHOUT_GPU,
    Check,
    Size,
    Skipped,
    StepFailed,
    compare,
)

RATE = 16000
FULL_TOLERANCE = 0.005
"""Largest difference of a step's loss over that loss, from the plain float32 run (on a
GPU its convolutions are TF32, with 10 bits after the point). On a CPU, in 8 steps of
the full-size model, another memory layout made 0.0004 (2026-11-23)."""
SAVE_EVERY, KILLED_AT = 3, 8
"""Steps; of the run that is killed, between checkpoints and when."""
COMPILE_SECONDS = 240
"""Without progress that the watchdog allows: a cold compile takes minutes."""


def _plain(check: Check) -> dict[int, float]:
    """The losses of the step "train"."""
    return {
        int(step): loss
        for step, loss in json.loads((check.folder / "plain.json").read_text()).items()
    }


def pack(check: Check) -> dict[str, Any]:
    """WAV files of square waves -> shards, by shards.pack."""
    size, source = check.size, check.folder / "source"
    (source / "wav").mkdir(parents=True)
    segments = ["# segments"]
    for number in range(size.num_clips):
        _write_wave(source / "wav" / f"clip{number}.wav", number, size)
        label = number % size.num_classes
        segments.append(f'clip{number}, 0.0, {size.clip_seconds}.0, "/m/{label}"')
    (source / "segments.csv").write_text("\n".join(segments) + "\n")
    classes = [f'{c},/m/{c},"Class {c}"' for c in range(size.num_classes)]
    header = "index,mid,display_name"
    (source / "classes.csv").write_text("\n".join([header, *classes]) + "\n")
    words: list[str | Path] = ["-m", "shards.pack", "--audio", source / "wav"]
    words += ["--segments", source / "segments.csv", "--workers", "2"]
    words += ["--class-labels", source / "classes.csv"]
    words += ["--clips-per-shard", "8", "--out", check.folder / "audio"]
    check.run("pack", words)
    return {"clips": size.num_clips}


def _write_wave(path: Path, number: int, size: Size) -> None:
    """Each second has a pitch and a loudness of its own."""
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        for second in range(size.clip_seconds):
            half = 4 + (7 * number + 3 * second) % 61
            level = 1000 + 997 * (5 * number + second) % 20000
            up, down = (
                (sign * level).to_bytes(2, "little", signed=True) for sign in (1, -1)
            )
            period = up * half + down * half
            stream.writeframes((period * (RATE // (2 * half) + 1))[: 2 * RATE])


def train(check: Check) -> dict[str, Any]:
    """The teacher, in plain float32; what other runs are compared with."""
    losses = check.train("plain")
    (check.folder / "plain.json").write_text(json.dumps(losses))
    return {"losses": list(losses.values())}


def label(check: Check) -> dict[str, Any]:
    """Pseudo labels, by psl.label."""
    check.run("label", [*("-m", "psl.label"), *_label_words(check, "labels")])
    return {}


def _label_words(check: Check, out: str) -> list[str]:
    return [
        f"teacher={check.folder / 'plain'}",
        f"audio={check.folder / 'audio'}",
        f"out={check.folder / out}",
        f"chunk_seconds={check.size.chunk_seconds}",
    ]


def student(check: Check) -> dict[str, Any]:
    """A student from those labels."""
    losses = check.train("student", f"data.labels=[{check.folder / 'labels'}]")
    return {"losses": list(losses.values())}


def evaluate(check: Check) -> dict[str, Any]:
    """Metrics of the student, by psl.evaluate."""
    out = check.folder / "eval"
    words = [f"checkpoint={check.folder / 'student'}", f"out={out}"]
    words.append(f"audio={check.folder / 'audio'}")
    check.run("evaluate", ["-m", "psl.evaluate", *words])
    metrics = json.loads((out / "metrics.json").read_text())
    if metrics["num_clips"] != check.size.num_clips:
        raise StepFailed(f"scored {metrics['num_clips']} of {check.size.num_clips}")
    return metrics


def cpu(check: Check) -> dict[str, Any]:
    """The same losses on the CPU: what reached the GPU is what was read."""
    if check.device == "cpu":
        raise Skipped("--device cpu: there is no other device to compare with")
    losses = check.train("on_cpu", variables=WITHOUT_GPU)
    return compare(losses, _plain(check), FULL_TOLERANCE)


def bf16(check: Check) -> dict[str, Any]:
    """precision=bf16."""
    return compare(
        _plain(check), check.train("bf16", "precision=bf16"), check.size.bf16_tolerance
    )


def compiled(check: Check) -> dict[str, Any]:
    """compile=true."""
    if check.device == "cpu":
        raise Skipped("--device cpu: the C++ compiler takes minutes for the model")
    losses = check.train("compiled", "compile=true", timeout_seconds=COMPILE_SECONDS)
    return compare(_plain(check), losses, FULL_TOLERANCE)


def compiled_bf16(check: Check) -> dict[str, Any]:
    """compile=true with precision=bf16."""
    if check.device == "cpu":
        raise Skipped("--device cpu: the C++ compiler takes minutes for the model")
    words = ("compile=true", "precision=bf16")
    losses = check.train("compiled_bf16", *words, timeout_seconds=COMPILE_SECONDS)
    return compare(_plain(check), losses, check.size.bf16_tolerance)


def ranks(check: Check) -> dict[str, Any]:
    """Torchrun with a rank for each GPU (nccl), BatchNorm synchronised.

    On one GPU that is one rank: what several ranks say to each other is not tried.
    """
    number = _num_ranks(check)
    tried: dict[str, Any] = {"ranks": number}
    if number == 1:
        tried["not_tried"] = "several ranks of nccl: there is one GPU"
    launcher = check.torchrun(number)
    if check.device == "cpu":  # torch synchronises BatchNorm on GPUs only
        return {
            **tried,
            "losses": [*check.train("ranks", launcher=launcher).values()],
        }
    losses = check.train("ranks", "sync_batch_norm=true", launcher=launcher)
    return {**tried, **compare(_plain(check), losses, FULL_TOLERANCE)}


def bitwise(check: Check) -> dict[str, Any]:
    """How many losses of a second run are those of the first, bit for bit.

    With arithmetic.deterministic, which is the default, and without it.
    """
    first, steps = _plain(check), check.num_steps
    free = "arithmetic.deterministic=false"
    runs = {name: check.train(name, free) for name in ("free", "free_again")}
    return {
        "deterministic": _num_same(first, check.train("again")),
        "free": _num_same(runs["free"], runs["free_again"]),
        "steps": steps,
    }


def _num_same(one: dict[int, float], other: dict[int, float]) -> int:
    return sum(loss == other.get(step) for step, loss in one.items())


def graph_losses(check: Check) -> dict[str, Any]:
    """cuda_graph=true: the losses of the recorded step."""
    if check.device == "cpu":
        raise Skipped("--device cpu: CUDA graphs are recorded on GPUs only")
    losses = check.train("graph", "cuda_graph=true")
    return compare(_plain(check), losses, FULL_TOLERANCE)


def _num_ranks(check: Check) -> int:
    """As many as there are GPUs and the batch can be shared by."""
    batch_size = check.size.batch_size
    return max(
        n
        for n in range(1, check.num_devices + 1)
        if n <= batch_size and not batch_size % n
    )


def resume(check: Check) -> dict[str, Any]:
    """The last rank is killed; started again, the run ends with the same losses.

    On a GPU two undisturbed runs may differ, too; how far is a figure.
    """
    number = _num_ranks(check) if check.device == "cuda" else 1
    # without a launcher, which is slow to start, the plain run is the undisturbed one
    launcher = check.torchrun(number) if check.device == "cuda" else []
    words = [f"save_every={SAVE_EVERY}"]
    fault = f"rank={number - 1},step={KILLED_AT},point=step,action=kill"
    undisturbed = (
        check.train("undisturbed", *words, launcher=launcher)
        if launcher
        else _plain(check)
    )
    start = time.monotonic()
    check.train(
        "killed",
        *words,
        launcher=launcher,
        succeeds=False,
        variables={"PSL_FAULT": fault},
    )
    seconds = time.monotonic() - start
    losses = check.train("killed", *words, launcher=launcher)
    same = [step for step, loss in losses.items() if loss == undisturbed[step]]
    return {
        "ranks": number,
        "seconds_until_all_ended": round(seconds, 1),
        "steps_bit_for_bit": len(same),
        "steps": len(losses),
        **compare(undisturbed, losses, FULL_TOLERANCE),
    }


def deepspeed(check: Check) -> dict[str, Any]:
    """Every ZeRO stage that launch/accelerate has a file for."""
    if check.device == "cpu":
        raise Skipped("--device cpu: tests/launch/test_launchers.py does")
    for package in ("deepspeed", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise Skipped(f"{package} is not installed")
    number = _num_ranks(check)
    found = {}
    for path in sorted((REPOSITORY / "launch" / "accelerate").glob("zero?.yaml")):
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(path)]
        launcher += ["--num_processes", str(number)]
        losses = check.train(path.stem, launcher=launcher)
        found[path.stem] = list(losses.values())
    return {"ranks": number, "losses": found}
