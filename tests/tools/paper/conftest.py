"""What the tests of the paper's tables share."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.learning import REPOSITORY


@pytest.fixture(scope="session")
def tools() -> ModuleType:
    """tools/paper/reproduce.py."""
    return importlib.import_module("tools.paper.reproduce")


@pytest.fixture
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named relative to it."""
    monkeypatch.chdir(REPOSITORY)
