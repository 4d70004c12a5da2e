"""Labels to review."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import psl
from shards.dataset.clips import open_dataset


@pytest.fixture
def labels(tmp_path: Path, dataset: Path) -> Path:
    """Labels that agree with the weak ones (0.9 and 0.1), but for rows 1, 2 and 3."""
    clips = open_dataset(dataset)
    probs = {}
    for clip in clips:
        weak = clips.weak_labels([clip.row])[0]
        probs[clip.key] = np.tile(0.1 + 0.8 * weak, (2, 1))
    for row, c, value in ((1, 0, 0.97), (2, 1, 0.8)):
        probs[clips.keys[row]][:, c] = (1 - value, value)
        weak = clips.weak_labels([row])[0]
        if weak[c]:  # then the surprise is that it is not there
            probs[clips.keys[row]][:, c] = 1 - value
    psl.write_labels(tmp_path / "labels", dataset, probs, chunk_seconds=1.0)
    return tmp_path / "labels"
