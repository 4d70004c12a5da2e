"""Where values were computed: the packages, and the CPU and libraries beneath them."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

PACKAGES = ("torch", "torchaudio", "numpy", "soundfile")
"""Those whose arithmetic, or bytes, are in the golden values."""
CPU_FIELDS = ("vendor_id", "cpu family", "model", "model name")


def packages() -> dict[str, str]:
    """The versions of PACKAGES, without what tells a build (``+cpu``)."""
    return {name: version(name).partition("+")[0] for name in PACKAGES}


def machine() -> dict[str, str]:
    """What else may change the last bit: torch's build, the C library and the CPU."""
    return {
        "torch_build": torch.__version__,
        "libc": " ".join(platform.libc_ver()),
        "cpu": _cpu(),
    }


def _cpu() -> str:
    """The CPU's model, as /proc/cpuinfo has it of the first core."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            pairs = [line.partition(":") for line in stream.read().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    found: dict[str, str] = {}
    for name, _, value in pairs:
        found.setdefault(name.strip(), value.strip())
    fields = [f"{name} {found[name]}" for name in CPU_FIELDS if name in found]
    return ", ".join(fields) or platform.machine()
