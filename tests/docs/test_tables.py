"""The tables of the pages and the stored results of this repository."""

from __future__ import annotations

from statistics import fmean, stdev

from tests.docs.pages import read_pages
from tests.learning import REPOSITORY
from tools.check_tables import check
from tools.results.pages import tables_of
from tools.results.tables import Results


def test_every_table_with_numbers_is_what_the_stored_results_say() -> None:
    """A reader who checks a claim would find a number that the page does not have."""
    assert list(check(REPOSITORY)) == []


def test_the_check_sees_the_tables_that_matter() -> None:
    """It would pass as well if it looked at no page, or took no cell for a number."""
    found = {
        table.results
        for page in read_pages(REPOSITORY)
        for table in tables_of(page.text)
        if table.results
    }
    assert {"mini_table.paper", "real_sound.systems", "best.recipes"} <= found


def test_means_and_deviations_are_those_of_the_seeds() -> None:
    """A mean that its own seeds do not have would be quoted. Both were rounded."""
    results = Results(REPOSITORY / "docs" / "results")
    checked = 0
    for file in results.files():
        for name, system in results.stored(file).systems.items():
            values = system["values"]
            assert abs(fmean(values) - system["mean"]) < 0.0101, (file, name)
            if len(values) > 1:
                assert abs(stdev(values) - system["std"]) < 0.0151, (file, name)
            checked += 1
    assert checked > 15
