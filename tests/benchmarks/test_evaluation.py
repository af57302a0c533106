"""The benchmark of evaluation compares evaluators that agree."""

import pytest

from ms_detr.benchmarks.evaluation import compare_evaluators


@pytest.mark.slow
def test_all_evaluate_the_same():
    usual, ours, with_nms = compare_evaluators(images=30, detections=20)
    assert usual["ratio"] == 1 and 1 < usual["AP"] < 99
    assert ours["AP"] == pytest.approx(usual["AP"], abs=1e-9, rel=0)
    assert with_nms["AP"] == ours["AP"]
    assert all(row["CPU s"] > 0 and row["peak MB"] > 0 for row in (usual, ours, with_nms))
