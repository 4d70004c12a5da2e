"""The configuration of a start of a run."""

from __future__ import annotations

from pydantic import Field

from psl.config import config


@config
class AttemptConfig:
    """When to give up."""

    timeout_seconds: float = Field(default=600.0, ge=0.01, le=1_000_000)
    """Longest time a process may make no progress, s: waiting for its data, for the
    other processes, or in a batch of the validation. The job ends within half as long
    again."""
    max_futile_starts: int = Field(default=3, ge=1, le=1_000_000)
    """Consecutive starts without a new checkpoint after which a run counts as stuck."""
    retry_stuck: bool = False
    """Start a stuck run once more; leave this out again afterwards."""
