"""The IoF-IoB curve against loops."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.analysis import Separation
from ms_detr.errors import DataError

# Many lie on a threshold.
VALUES = st.lists(
    st.tuples(st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1)), st.booleans()),
    min_size=2,
    max_size=30,
).filter(lambda pixels: len({inside for _, inside in pixels}) == 2)


def share(values, chosen):
    return sum(map(chosen, values)) / len(values)


def slow_curve(pixels, exceeding):
    """IoF and IoB at every tenth, and the area of the polygon under them."""
    inside = [value for value, is_in in pixels if is_in]
    outside = [value for value, is_in in pixels if not is_in]
    points = []
    for k in range(11):
        s = k / 10
        iof = share(inside, lambda value, s=s: value > s)
        iob = share(outside, lambda value, s=s: value > s if exceeding else value < s)
        points.append((iob, iof))
    ends = [(1.0, 1.0), *points, (0.0, 0.0)] if exceeding else [(0.0, 1.0), *points, (1.0, 0.0)]
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(ends):
        area += abs(x1 - x0) * (y0 + y1) / 2
    return points, area


@given(pixels=VALUES, exceeding=st.booleans(), parts=st.integers(1, 3))
def test_curve_against_loops(pixels, exceeding, parts):
    separation = Separation(11)
    for part in range(parts):
        own = pixels[part::parts]
        values = torch.tensor([value for value, _ in own], dtype=torch.float64)
        inside = torch.tensor([is_in for _, is_in in own], dtype=torch.bool)
        separation.add(values, inside)
    curve = separation.curve(exceeding)
    points, area = slow_curve(pixels, exceeding)
    assert curve.iob.tolist() == pytest.approx([x for x, _ in points], abs=1e-12)
    assert curve.iof.tolist() == pytest.approx([y for _, y in points], abs=1e-12)
    assert curve.area == pytest.approx(area, abs=1e-12)
    assert curve.iof.diff().max() <= 0
    assert (curve.iob.diff() * (-1 if exceeding else 1)).min() >= 0
    for found, wanted in zip(separation.means(), (True, False), strict=True):
        values = [value for value, is_in in pixels if is_in == wanted]
        assert found == pytest.approx(sum(values) / len(values), abs=1e-12)


def test_a_score_above_zero_begins_with_all_objects_and_no_background():
    separation = Separation()
    separation.add(torch.rand(40, 50) * 0.9 + 0.1, torch.rand(40, 50) > 0.5)
    curve = separation.curve()
    assert len(curve.thresholds) == 101
    assert (curve.iof[0], curve.iob[0]) == (1, 0)
    # As the score of every pixel is drawn, whatever it is of.
    assert curve.area == pytest.approx(0.5, abs=0.05)
    assert separation.curve(exceeding=True).area == pytest.approx(curve.area, abs=1e-3)


def test_a_score_that_tells_all():
    separation = Separation()
    inside = torch.rand(20, 20) > 0.5
    separation.add(torch.where(inside, 0.805, 0.205), inside)
    assert separation.curve().area == 1
    assert separation.curve(exceeding=True).area == 1


def test_without_objects_there_is_no_curve():
    separation = Separation()
    separation.add(torch.rand(4, 4), torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(DataError, match="no pixel of the 1 images lies in an object"):
        separation.curve()
    with pytest.raises(DataError, match="lies in an object"):
        separation.means()
