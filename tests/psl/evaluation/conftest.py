"""What the tests of evaluation share: a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest

from psl import train
from tests.learning import teacher_config


@pytest.fixture(scope="package")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(teacher_config(folder, dataset))
    return folder / "run"
