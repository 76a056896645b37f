"""Intervals contain the true value as often as the documentation says."""

import math
import re
from pathlib import Path

import pytest

from benchmarks.coverage import N_ITEMS, N_SETS, ROWS, coverage

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts.md"
N_FAST = 400


@pytest.fixture(scope="module")
def stated():
    """The table of the documentation: share by row, one for each number of items."""
    row = re.compile(r"^\| ([^|]+) \| ([^|]+) \| (\d+ \| \d+ \| \d+ \| \d+) \|$", re.MULTILINE)
    rows = row.findall(CONCEPTS.read_text("utf-8"))
    return {(interval, items): [int(cell) / 100 for cell in cells.split(" | ")] for interval, items, cells in rows}


def test_the_documentation_has_every_row(stated):
    assert list(stated) == list(ROWS)
    assert f"| interval | items | {' | '.join(f'n = {n}' for n in N_ITEMS)} |" in CONCEPTS.read_text("utf-8")


@pytest.mark.parametrize("row", ROWS, ids=", ".join)
def test_intervals_cover_as_often_as_documented(row, stated):
    for n_items, share in zip(N_ITEMS, stated[row], strict=True):
        found = coverage(row, n_items, N_FAST, seed=1)
        rate = min(share, 0.995)  # what is stated is rounded
        error = math.sqrt(rate * (1 - rate) * (1 / len(found) + N_FAST / len(found) / N_SETS))
        assert abs(found.mean() - share) < 3.5 * error + 0.005, (n_items, found.mean())


def test_the_nominal_rate_is_reached_with_items_as_they_should_be(stated):
    for (interval, items), shares in stated.items():
        if items in ("normal", "tied") and interval != "reliability":
            assert min(shares) >= 0.94, (interval, items)
        if items == "skewed":
            assert min(shares) >= 0.90, (interval, items)


@pytest.mark.parametrize("n_items", [2, 3, 4])
def test_very_few_normal_items_are_covered_as_well(n_items):
    found = coverage(("mean or change", "normal"), n_items, 1000)
    assert found.mean() > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000)
