"""The benchmark of SAM-DETR's attention compares what it claims to compare."""

import pytest
import torch

from ms_detr.benchmarks import aligned


def test_both_give_the_same(monkeypatch):
    monkeypatch.setattr(aligned, "MAPS", {"small": (3, 5)})
    rows = aligned.compare_aligned(batch=2, queries=4, rounds=1)
    assert [row["attention"] for row in rows] == ["SAM", "SAM with SMCA", "SMCA"]
    for row in rows:
        assert row["largest difference"] < 1e-5
        assert row["naive ms"] > 0 and row["layer ms"] > 0
        assert row["naive MB retained"] > 0 and row["layer MB retained"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    with pytest.raises(ValueError, match="sees no GPU here"):
        aligned.compare_aligned("cuda")
