"""A real browser for tests of pages, which need the kind ``browser``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.needs import program

ARGUMENTS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
"""Sounds may play without a click, and a microphone is there and makes a tone."""


@contextmanager
def launched() -> Iterator[Any]:
    """Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=program("chromium"), args=list(ARGUMENTS)
        )
        yield browser
        browser.close()


def open_page(
    browser: Any, url: str, *, with_requests: bool = False, **settings: Any
) -> tuple[Any, list[str]]:
    """The page, and what its console and its dialogs said, which is filled.

    And the network, by URL, ``with_requests``.
    """
    page = browser.new_page(**settings)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    if with_requests:
        page.on("request", lambda request: said.append(request.url))
    page.goto(url)
    return page, said
