"""docs/api.md is complete; tests/docs/test_blocks.py runs its examples."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_page_names_every_public_function() -> None:
    """Else a function is public and nobody learns of it."""
    import psl
    import shards

    text = PAGE.read_text()
    for package in (psl, shards):
        for name in set(package.__all__) - {"__version__"}:
            assert f"`{package.__name__}.{name}`" in text
