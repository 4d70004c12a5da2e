"""psl demo in a real browser: a sound dropped, a sound recorded, and other files."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import psl
from psl.serving.local import LocalServer
from psl.tagging.windows import Cut
from psl.trying.session import MAX_BYTES, Session
from shards.format.classes import Classes
from tests.browser import launched, open_page
from tests.needs import needs
from tests.psl.exporting.made import make_checkpoint

pytestmark = needs("browser")

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a small model, one of whose classes has a hostile name."""
    names = Classes(("/m/a", "/m/b", "/m/c"), ("Low", HOSTILE, "High"))
    folder = tmp_path_factory.mktemp("demo")
    model = make_checkpoint(folder / "model", "cnn14", classes=names)
    session = Session(psl.load(model, device="cpu"), "my <model>", Cut(1.0, 0.5))
    with LocalServer(session.routes, max_body=MAX_BYTES) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def opened(browser: Any, url: str, **settings: Any) -> tuple[Any, list[str]]:
    """The page once it knows its model, and what it said."""
    page, said = open_page(browser, url, **settings)
    page.locator("#about", has_text="3 classes").wait_for()
    return page, said


def test_a_dropped_sound_is_tagged_over_time(
    browser: Any, url: str, tmp_path: Path
) -> None:
    """The page would show nothing, or run a class name."""
    time = np.arange(3 * 16000) / 16000
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2000 * time), 16000)
    data = base64.b64encode((tmp_path / "a.wav").read_bytes()).decode()
    page, said = opened(browser, url)
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], "a <b>.wav"));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: files}));
        }""",
        data,
    )
    page.locator("#result .row .name").first.wait_for()
    names = page.locator("#result .row .name").all_text_contents()
    assert sorted(names) == sorted(["Low", HOSTILE, "High"])
    assert "a <b>.wav: 3.0 s" in page.locator("#result").inner_text()
    assert page.locator("img").count() == 0 and page.locator("p b").count() == 0
    numbers = page.locator("#result .number").all_text_contents()
    tagger_says = [float(number) for number in numbers]
    assert tagger_says == sorted(tagger_says, reverse=True)
    assert said == []
    page.screenshot(path=str(tmp_path / "wide.png"))
    page.close()


def test_a_recording_is_tagged(browser: Any, url: str) -> None:
    """Only files could be tried."""
    page, said = opened(browser, url, permissions=["microphone"])
    page.click("#record")
    page.locator("#state", has_text="recording").wait_for()
    page.wait_for_timeout(1200)
    page.click("#record")
    page.locator("#result .row .name").first.wait_for()
    assert "recording: " in page.locator("#result").inner_text()
    assert said == []
    page.close()


def test_a_file_without_sound_is_a_line_and_a_phone_fits(
    browser: Any, url: str, tmp_path: Path
) -> None:
    """A page that waits forever, or a traceback."""
    page, _ = opened(browser, url, viewport={"width": 360, "height": 740})
    (tmp_path / "notes.txt").write_text("no sound\n" * 100)
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.locator("#problem", has_text="notes.txt: this file cannot be used").wait_for()
    assert "/tmp" not in page.locator("#problem").inner_text()
    (tmp_path / "empty.wav").write_bytes(b"")
    page.set_input_files("#file", tmp_path / "empty.wav")
    page.locator("#problem", has_text="empty.wav: an empty file").wait_for()
    soundfile.write(tmp_path / "ok.flac", np.random.rand(16000) * 0.1, 16000)
    page.set_input_files("#file", tmp_path / "ok.flac")
    page.locator("#result .row .name").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
