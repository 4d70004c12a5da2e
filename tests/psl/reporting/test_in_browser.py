"""The page of psl.report in a real browser, with clips to play and hostile names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psl
import shards
from psl import report
from tests.browser import launched, open_page
from tests.needs import needs
from tests.psl.reporting.made import NAMES, make_evaluation, make_run

pytestmark = needs("browser")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A report of two runs with everything in it."""
    folder = tmp_path_factory.mktemp("report")
    clips = shards.open_dataset(dataset)
    probs = {k: np.linspace(0, 1, 6).reshape(2, 3) for k in clips.keys}
    psl.write_labels(folder / "labels", dataset, probs, chunk_seconds=1.0)
    runs = []
    for number, name in enumerate(("weak", "<b>strong</b>"), start=1):
        data = {"labels": [str(folder / "labels")]}
        run = make_run(folder / str(number) / name.replace("/", "_"), data=data)
        make_evaluation(run / "eval", keys=clips.keys, ap=(0.2 * number, 0.5, 0.25))
        runs.append(str(run))
    out = folder / "report.html"
    report.main([*runs, "--audio", str(dataset), "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def opened(browser: Any, file: Path, **settings: Any) -> tuple[Any, list[str]]:
    """The page, and what its console and the network were told."""
    return open_page(browser, file.as_uri(), with_requests=True, **settings)


def is_noise(line: str, file: Path) -> bool:
    """The page itself, and what it carries."""
    return line == file.as_uri() or line.startswith("data:")


def test_the_page_works_and_names_stay_text(browser: Any, page_file: Path) -> None:
    """A broken script would leave an empty page; a class name would be run."""
    page, said = opened(browser, page_file)
    assert page.title() == "psl report"
    names = page.locator("#per-class tbody td.name bdi:first-child").all_text_contents()
    assert set(names) >= {NAMES[0], NAMES[1]}
    assert page.locator("img").count() == 0
    assert page.locator("b b, h3 b").count() == 0  # of the run's name
    sections = page.locator("section").evaluate_all("(all) => all.map((s) => s.id)")
    wanted = {"results", "curves", "classes", "confused", "timelines", "samples"}
    assert {*wanted, "config", "commands"} <= set(sections)
    assert page.locator("#curves polyline").count() == 4
    assert [line for line in said if not is_noise(line, page_file)] == []
    page.close()


def test_classes_are_searched_and_sorted(browser: Any, page_file: Path) -> None:
    """Among 527 classes nobody would find one."""
    page, _ = opened(browser, page_file)
    rows = page.locator("#per-class tbody tr")
    assert rows.count() == 3
    gains = page.locator("#per-class tbody td.up")
    assert gains.all_text_contents() == ["+20.0"]
    page.fill("#search", "SOUND")
    assert rows.count() == 1 and "/m/high" in rows.first.inner_text()
    page.fill("#search", "nothing like it")
    assert rows.count() == 0 and "0 of 3" in page.locator("#classes").inner_text()
    page.fill("#search", "")
    page.get_by_role("button", name="eval").nth(1).click()  # of the second run
    assert "/m/mid" in rows.first.inner_text()
    page.get_by_role("button", name="eval").nth(1).click()
    assert "/m/high" in rows.first.inner_text()
    page.close()


def test_sounds_load_and_are_as_long_as_their_clips(
    browser: Any, page_file: Path
) -> None:
    """A button that plays nothing."""
    page, _ = opened(browser, page_file)
    page.wait_for_function(
        "[...document.querySelectorAll('audio')].every((a) => a.readyState >= 1)"
    )
    found = page.locator("audio").evaluate_all("(all) => all.map((a) => a.duration)")
    assert len(found) >= 4 and set(found) == {2.0}
    page.close()


def test_a_click_into_a_spectrogram_plays_from_there(
    browser: Any, page_file: Path
) -> None:
    """A picture that is empty, or beside its sound, tells something wrong."""
    page, _ = opened(browser, page_file)
    pictures = page.locator(".picture canvas")
    assert pictures.count() == page.locator("audio").count()
    levels = pictures.evaluate_all(
        "(all) => all.map((c) => new Set(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data).size)"
    )
    assert min(levels) > 20
    clip = page.locator("#samples .clip").first
    box = clip.locator(".picture").bounding_box()
    clip.locator(".picture").click(position={"x": 0.75 * box["width"], "y": 9})
    time = clip.locator("audio").evaluate("(a) => { a.pause(); return a.currentTime; }")
    assert 1.45 <= time <= 1.9
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way_only(
    browser: Any, page_file: Path, scheme: str
) -> None:
    """On a phone every line would have to be pushed to and fro; by night it glares."""
    size = {"width": 360, "height": 740}
    page, _ = opened(browser, page_file, viewport=size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(back.removeprefix("rgb(").split(",")[0])
    assert (red < 60) == (scheme == "dark")
    page.close()
