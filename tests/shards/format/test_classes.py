"""Class lists that differ, as messages say it."""

from __future__ import annotations

import pytest

from shards.format.classes import class_difference


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        ("abc", "ab", "3 classes, expected 2: 1 more (c)"),
        ("ab", "abcdef", "2 classes, expected 6: 4 missing (c, d, e, ...)"),
        ("ax", "ab", "2 classes, expected 2: 1 more (x), 1 missing (b)"),
        ("ba", "ab", "the 2 classes in another order: number 0 is b, expected a"),
        # of a file from anywhere, which may name a class twice
        (
            "abb",
            "ab",
            "the 3 classes in another order: number 2 is b, expected nothing",
        ),
        ("aab", "ab", "the 3 classes in another order: number 1 is a, expected b"),
        ([None, "b"], "ab", "2 classes, expected 2: 1 more (None), 1 missing (a)"),
    ],
)
def test_two_lists_are_told_apart(
    found: list[object], expected: str, said: str
) -> None:
    """Whoever packs again would not know what to change."""
    assert class_difference(list(found), list(expected)) == said
