"""What GPUs can do at most, by their names.

Owns the table alone. A device that is not in it has no peak here: none is guessed.
"""

from __future__ import annotations

import re

PEAKS: dict[tuple[str, ...], tuple[float, float]] = {
    ("H200",): (989.4, 494.7),
    ("H100", "PCIe"): (756.5, 378.0),
    ("H100", "HBM3"): (989.4, 494.7),
    ("A100",): (312.0, 156.0),
    ("A40",): (149.7, 74.8),
    ("A30",): (165.0, 82.0),
    ("A10",): (125.0, 62.5),
    ("L40S",): (362.05, 183.0),
    ("L4",): (121.0, 60.0),
}
"""Words of the device's name -> dense TFLOP/s in bfloat16 and in TF32, from NVIDIA's
data sheets of these products (half of what they give "with sparsity")."""


def peak_tflops(device_name: str, *, bf16: bool) -> float | None:
    """Dense TFLOP/s of a GPU; None if it is not in the table.

    Without ``bf16`` that of TF32, which PyTorch's convolutions use for float32.
    """
    words = set(re.split(r"[\s_-]+", device_name))
    for name, peaks in PEAKS.items():
        if words.issuperset(name):
            return peaks[0 if bf16 else 1]
    return None
