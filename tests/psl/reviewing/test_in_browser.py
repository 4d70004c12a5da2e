"""psl review in a real browser, by keyboard, with a hostile class name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psl
from psl.data.corrections_file import read_corrections
from psl.reviewing.queue import disagreement, find_items
from psl.reviewing.session import Session
from psl.reviewing.store import Store
from psl.serving.local import LocalServer
from shards.dataset.clips import open_dataset
from tests.browser import launched, open_page
from tests.conftest import MIDS, Run, write_source
from tests.needs import needs

pytestmark = needs("browser")

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Iterator[Any]:
    """The address of a review of six chunks, and the file that it writes."""
    folder = tmp_path_factory.mktemp("review")
    source = write_source(folder / "source", num_clips=12)
    text = source.class_labels.read_text().replace("Tone mid", HOSTILE)
    source.class_labels.write_text(text)
    done = run("shards.pack", *source.pack_arguments(folder / "packed"))
    assert done.returncode == 0, done.stderr
    clips = open_dataset(folder / "packed")
    assert HOSTILE in clips.classes.names
    probs = {key: np.tile([0.3, 0.5, 0.9], (2, 1)) for key in clips.keys}
    psl.write_labels(folder / "labels", folder / "packed", probs, chunk_seconds=1.0)
    labels = psl.read_labels(folder / "labels", audio=str(folder / "packed"))
    items = find_items(labels, clips, disagreement, number=6)
    file = folder / "corrections.jsonl"
    with (
        Store(file) as store,
        LocalServer(Session(items, labels, clips, store).routes) as server,
    ):
        yield server.url, file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def opened(browser: Any, url: str, **settings: Any) -> tuple[Any, list[str]]:
    """The page with its first item, and what it said."""
    page, said = open_page(browser, url, **settings)
    page.wait_for_selector("canvas[data-drawn]")
    page.wait_for_selector("#item[data-loaded]")
    return page, said


def wait_for_count(page: Any, number: int) -> None:
    page.locator("#count", has_text=f"{number} of 6 looked at").wait_for()


def test_ten_keys_accept_correct_skip_and_undo(browser: Any, review: Any) -> None:
    """Whoever reviews a thousand chunks would need the mouse, and could not undo."""
    url, file = review
    page, said = opened(browser, url)
    buttons = page.locator("#classes button.said")
    assert page.locator("#classes bdi").all_text_contents()[-1:] != []
    assert HOSTILE in page.locator("#classes").inner_text()
    assert page.locator("img").count() == 0
    before = buttons.all_text_contents()
    page.keyboard.press("1")
    assert buttons.first.inner_text() != before[0]
    page.keyboard.press("Enter")
    wait_for_count(page, 1)
    first = read_corrections(file).decisions[-1]
    names = dict(zip(first.classes, first.classes.values(), strict=True))
    assert len(names) == len(before) and first.end - first.start == 1.0
    page.keyboard.press("s")
    wait_for_count(page, 2)
    assert len(read_corrections(file).decisions) == 1  # a skip decides nothing
    page.keyboard.press("u")
    wait_for_count(page, 1)
    page.keyboard.press("u")
    wait_for_count(page, 0)
    assert read_corrections(file).decisions == ()
    page.keyboard.press("a")
    page.keyboard.type("Tone low")
    page.keyboard.press("Tab")
    page.locator("#classes bdi", has_text="Tone low").wait_for()
    page.keyboard.press("Enter") if page.evaluate(
        "document.activeElement === document.body"
    ) else page.click("#save")
    wait_for_count(page, 1)
    assert read_corrections(file).decisions[-1].classes[MIDS[0]] is True
    assert said == []
    page.close()


def test_the_chunk_is_played_to_its_end(browser: Any, review: Any) -> None:
    """A page without sound is no review."""
    page, said = opened(browser, review[0])
    page.keyboard.press(" ")
    page.wait_for_selector(".cursor:not([hidden])", timeout=30_000)
    page.wait_for_selector(".cursor[hidden]", state="attached", timeout=30_000)
    assert said == []
    page.close()


def test_what_was_decided_is_there_after_a_reload_and_fits_a_phone(
    browser: Any, review: Any
) -> None:
    """A closed tab would look like lost work."""
    url, file = review
    page, _ = opened(browser, url, viewport={"width": 360, "height": 740})
    held = len(read_corrections(file).decisions)
    assert f"{held} of 6 looked at" in page.locator("#count").inner_text()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    page.screenshot(path=str(file.parent / "phone.png"))
    page.set_viewport_size({"width": 1000, "height": 800})
    page.screenshot(path=str(file.parent / "wide.png"))
    page.close()
