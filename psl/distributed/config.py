"""Words of a configuration for how processes compute together."""

from __future__ import annotations

from typing import Literal

Precision = Literal["no", "bf16"]
Strategy = Literal["ddp", "zero1", "zero2", "zero3"]
