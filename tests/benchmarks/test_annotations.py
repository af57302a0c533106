"""Starts on generated annotation files, as large as the time of the tests allows."""

import os

import pytest
from tabulate import tabulate

from ms_detr.benchmarks.annotations import measure_annotations

FULL = 2_000_000  # images, of Objects365


def check(rows: list[dict], own: float) -> None:
    first, *later = rows
    assert all(row["first batch s"] > 0 and row["loaded s"] > 0 for row in rows)
    assert max(row["peak MB"] for row in later) <= first["peak MB"]
    assert min(row["loaded s"] for row in later) < first["loaded s"]
    assert 0 < later[-1]["own MB a loader process"] < own


@pytest.mark.slow
def test_twenty_thousand_images(tmp_path):
    """Each of 12 objects. The file has 29 MB; read at once it took ten times that."""
    rows = measure_annotations(20_000, 12, workers=(1,), folder=tmp_path)
    check(rows, own=60)
    assert rows[0]["peak MB"] - rows[0]["MB before"] < 150
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_many_images(tmp_path):
    """200,000 images of 2.5 million objects; SCALE=full is Objects365's size, in 10 minutes."""
    full = os.environ.get("SCALE") == "full"
    rows = measure_annotations(FULL if full else FULL // 10, workers=(0, 4), folder=tmp_path)
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".1f"))
    check(rows, own=100)
    assert rows[0]["peak MB"] < (6000 if full else 1800)
