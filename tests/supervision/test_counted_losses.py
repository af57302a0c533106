"""Losses that are divided by what a process counts, and by what all of them do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.structures import CountedLosses


@given(
    counts=st.lists(st.floats(0, 300), min_size=1, max_size=6),
    sums=st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6),
)
def test_the_mean_of_all_takes_the_place_of_the_own_count(counts, sums):
    """Sums over ``max(count, 1)`` become sums over ``max(mean of the counts, 1)``."""
    mean = sum(counts) / len(counts)
    for count, value in zip(counts, sums, strict=False):
        numbers = {"a": value / max(count, 1.0), "b": value}
        losses = CountedLosses(
            {name: torch.tensor(x, dtype=torch.float64) for name, x in numbers.items()},
            {"a": torch.tensor(count, dtype=torch.float64)},
        )
        found = losses.counted_as({"a": torch.tensor(mean, dtype=torch.float64)})
        assert found["a"].item() == pytest.approx(value / max(mean, 1.0), rel=1e-12, abs=1e-300)
        assert found["b"] is losses["b"] and list(found) == ["a", "b"]


def test_losses_are_taken_over_with_their_counts():
    found = CountedLosses()
    found.add({"plain": torch.tensor(1.0)})
    found.add(CountedLosses({"x": torch.tensor(2.0)}, {"x": torch.tensor(3.0)}), "term/")
    assert found == {"plain": 1.0, "term/x": 2.0}
    assert found.counts == {"term/x": 3.0}
