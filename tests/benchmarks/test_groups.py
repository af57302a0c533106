"""The benchmark of attention in groups compares what it claims to compare."""

import pytest
import torch

from ms_detr.benchmarks import groups


@pytest.fixture
def small(monkeypatch):
    schemes = {"blocks": (4, [(4, False)] * 2), "both": (4, [(6, False), (2, True), (2, True)])}
    monkeypatch.setattr(groups, "SCHEMES", schemes)


def test_both_give_the_same(small):
    rows = groups.compare_groups(rounds=1)
    assert [(row["scheme"], row["queries"]) for row in rows] == [("blocks", 12), ("both", 14)]
    for row in rows:
        assert row["largest difference"] < 1e-5
        assert row["dense ms"] > 0 and row["blocks ms"] > 0
        assert row["dense MB retained"] > 0 and row["blocks MB retained"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    with pytest.raises(ValueError, match="sees no GPU here"):
        groups.compare_groups("cuda")
