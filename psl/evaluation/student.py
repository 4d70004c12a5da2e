"""Student's t distribution, without SciPy."""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.95
"""Share of an interval."""


def student_quantile(share: float, freedom: float) -> float:
    """The quantile of Student's t; numerically, to about 1e-5.

    With t = sqrt(freedom) tan(a), its density in a is cos(a) ** (freedom - 1).
    """
    freedom = min(freedom, 1e6)
    edge = math.pi / 2 if freedom < 1e3 else min(math.pi / 2, 12 / math.sqrt(freedom))
    angle = np.linspace(-edge, edge, 400_001)
    density = np.cos(angle) ** (freedom - 1)
    steps = (density[1:] + density[:-1]) / 2
    total = np.append(0, np.cumsum(steps)) / steps.sum()
    return float(math.sqrt(freedom) * math.tan(np.interp(share, total, angle)))
