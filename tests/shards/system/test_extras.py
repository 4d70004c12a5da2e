"""Commands that messages tell users to type for optional packages."""

from __future__ import annotations

import importlib.metadata

import pytest

from shards.system.extras import pip_install


def test_the_command_names_the_packages_so_that_it_works_without_a_clone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who installed a wheel has no folder in which pip finds '.[export]'."""
    asked = [
        "torch>=2.10",
        'onnx>=1.17; extra == "export"',
        'onnxruntime>=1.20; extra == "export"',
        'yt-dlp[default]; extra == "download"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    assert pip_install("export") == "pip install 'onnx>=1.17' 'onnxruntime>=1.20'"
    assert pip_install("download") == "pip install 'yt-dlp[default]'"


def test_in_a_clone_that_is_not_installed_the_command_installs_the_clone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no metadata to read; an empty 'pip install' would be an error."""

    def none_there(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none_there)
    assert pip_install("export") == "pip install -e '.[export]'"
