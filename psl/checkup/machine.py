"""Cores, memory and GPUs of this machine, and what torch makes of them."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from psl.checkup.finding import Finding

_DRIVER = Path("/proc/driver/nvidia/version")
_CUDA_BUILD = "install a CUDA build of torch: https://pytorch.org/get-started/locally"


def cpu() -> Finding:
    """The processor, the cores this process may use, and memory."""
    cores, limit = len(os.sched_getaffinity(0)), cpu_limit()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    text = f"{_model()}, {cores} of {os.cpu_count()} cores"
    if limit is not None and limit < cores:
        text += f", limited to the time of {limit:g}"
    facts = {
        "cores": cores,
        "limit": limit,
        "memory_gib": round(memory, 1),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
    }
    text += f", {memory:.0f} GiB of memory, load {facts['load']}"
    return Finding("CPU", "ok", text, facts=facts)


def cpu_limit() -> float | None:
    """Cores' worth of time that a container allows; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.machine()


def gpus() -> Iterator[Finding]:
    """Each GPU, tried with a multiplication; and NCCL."""
    if not torch.cuda.is_available():
        yield _no_gpu()
        return
    for number in range(torch.cuda.device_count()):
        yield _gpu(number)
    yield _nccl(torch.cuda.device_count())


def _no_gpu() -> Finding:
    built_for = torch.version.cuda
    if not _DRIVER.exists():
        return Finding("GPU", "note", "none; psl runs on the CPU")
    if built_for is None:
        text = "NVIDIA's driver is here, but this torch is built for CPUs"
        return Finding("GPU", "note", text, _CUDA_BUILD)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        text = f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}"
        return Finding("GPU", "note", text, "unset CUDA_VISIBLE_DEVICES")
    text = f"NVIDIA's driver is here, but torch for CUDA {built_for} sees no GPU"
    return Finding("GPU", "broken", text, f"nvidia-smi; {_CUDA_BUILD}")


def _gpu(number: int) -> Finding:
    name = f"GPU {number}"
    try:
        about = torch.cuda.get_device_properties(number)
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        right = bool(((ones @ ones) == 64).all())
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        return Finding(name, "broken", f"does not compute: {what}", "nvidia-smi")
    facts = {
        "name": about.name,
        "capability": [about.major, about.minor],
        "free_gib": round(free / 2**30, 1),
        "total_gib": round(total / 2**30, 1),
        "bf16": about.major >= 8,
    }
    text = (
        f"{about.name}, {facts['free_gib']} of {facts['total_gib']} GiB free, "
        f"precision=bf16 {'is fast' if facts['bf16'] else 'is slow'} on it"
    )
    if not right:
        return Finding(name, "broken", f"{text}; computes wrongly", "nvidia-smi", facts)
    return Finding(name, "ok", text, facts=facts)


def _nccl(num_gpus: int) -> Finding:
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        version = ".".join(map(str, torch.cuda.nccl.version()))
        return Finding("NCCL", "ok", version)
    text = "not in this torch, so several GPUs cannot train together"
    return Finding("NCCL", "broken" if num_gpus > 1 else "note", text, _CUDA_BUILD)
