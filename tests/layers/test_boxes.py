import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ms_detr.layers.boxes import (
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    inverse_sigmoid,
    refine,
    xyxy_to_cxcywh,
)

from . import reference


def floats(low, high):
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


def boxes(smallest=0.0):
    """Boxes (cx, cy, w, h); smallest=0 includes lines and points."""
    return st.tuples(floats(0, 1), floats(0, 1), floats(smallest, 1), floats(smallest, 1)).map(
        lambda box: torch.tensor(box, dtype=torch.float64)
    )


with_area = boxes(smallest=1e-3)


@given(a=with_area, b=with_area)
def test_iou_and_giou_equal_the_loop(a, b):
    assert box_iou(a, b).item() == pytest.approx(reference.iou(a.tolist(), b.tolist()), abs=1e-9)
    expected = reference.giou(a.tolist(), b.tolist())
    assert generalized_box_iou(a, b).item() == pytest.approx(expected, abs=1e-9)


@given(a=boxes(), b=boxes())
def test_iou_and_giou_stay_in_their_range(a, b):
    iou, giou = box_iou(a, b).item(), generalized_box_iou(a, b).item()
    assert 0 <= iou <= 1
    assert -1 - 1e-9 <= giou <= iou + 1e-9


@given(a=boxes(), b=boxes())
def test_iou_and_giou_are_symmetric(a, b):
    assert box_iou(a, b).item() == pytest.approx(box_iou(b, a).item(), abs=1e-12)
    there, back = generalized_box_iou(a, b).item(), generalized_box_iou(b, a).item()
    assert there == pytest.approx(back, abs=1e-12)


@given(a=with_area)
def test_a_box_overlaps_itself_wholly(a):
    assert box_iou(a, a).item() == pytest.approx(1, abs=1e-12)
    assert generalized_box_iou(a, a).item() == pytest.approx(1, abs=1e-12)


@given(a=with_area, b=with_area, scale=floats(0.1, 10), dx=floats(-3, 3), dy=floats(-3, 3))
def test_scale_and_translation_change_nothing(a, b, scale, dx, dy):
    shift = torch.tensor([dx, dy, 0, 0], dtype=torch.float64)
    for function in (box_iou, generalized_box_iou):
        moved = function(scale * a + shift, scale * b + shift).item()
        assert moved == pytest.approx(function(a, b).item(), abs=1e-6)


def test_known_overlaps():
    a = torch.tensor([0.25, 0.25, 0.5, 0.5])
    quarter = torch.tensor([0.5, 0.5, 0.5, 0.5])  # shares a quarter of its area
    apart = torch.tensor([0.75, 0.75, 0.5, 0.5])  # touches in a corner
    assert box_iou(a, quarter).item() == pytest.approx(1 / 7)
    assert generalized_box_iou(a, quarter).item() == pytest.approx(1 / 7 - 2 / 9)
    assert box_iou(a, apart).item() == 0
    assert generalized_box_iou(a, apart).item() == pytest.approx(-0.5)


@given(box=boxes())
def test_conversion_round_trip(box):
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(box)), box, rtol=0, atol=1e-12)


def test_conversion():
    box = torch.tensor([0.5, 0.25, 0.25, 0.5])
    assert cxcywh_to_xyxy(box).tolist() == [0.375, 0.0, 0.625, 0.5]
    assert xyxy_to_cxcywh(torch.tensor([[[0.375, 0.0, 0.625, 0.5]]])).tolist() == [[box.tolist()]]


def test_pairs_broadcast():
    a, b = torch.rand(3, 1, 4), torch.rand(2, 1, 5, 4)
    for function in (box_iou, generalized_box_iou):
        out = function(a, b)
        assert out.shape == (2, 3, 5)
        assert torch.equal(out[1, 2, 4], function(a[2, 0], b[1, 0, 4]))


POINT = (0.5, 0.5, 0.0, 0.0)
LINE = (0.5, 0.25, 0.5, 0.0)
BOX = (0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("a", "b", "giou"),
    [
        (POINT, POINT, 0.0),  # nothing to enclose
        (LINE, LINE, 0.0),
        (POINT, LINE, -1.0),  # an enclosing box of which nothing is filled
        (POINT, BOX, 0.0),  # inside, and fills nothing
        (LINE, BOX, 0.0),
    ],
)
def test_boxes_without_area(a, b, giou):
    a = torch.tensor(a, requires_grad=True)
    b = torch.tensor(b, requires_grad=True)
    iou = box_iou(a, b)
    value = generalized_box_iou(a, b)
    assert iou.item() == 0
    assert value.item() == pytest.approx(giou)
    gradients = torch.autograd.grad(iou + value, (a, b))
    assert all(gradient.isfinite().all() for gradient in gradients)


@given(a=boxes(), b=boxes())
def test_gradients_are_finite(a, b):
    a.requires_grad_()
    sizes = torch.cat((a.detach()[2:], b[2:]))
    # A side of 1e-200 has finite gradients of 1e200; that is not what this test is about.
    assume(((sizes == 0) | (sizes > 1e-6)).all())
    (generalized_box_iou(a, b) + box_iou(a, b)).backward()
    assert a.grad.isfinite().all()


@given(x=floats(-0.5, 1.5), epsilon=st.sampled_from([1e-5, 1e-3]))
def test_inverse_sigmoid_equals_the_loop(x, epsilon):
    value = inverse_sigmoid(torch.tensor(x, dtype=torch.float64), epsilon).item()
    assert value == pytest.approx(reference.inverse_sigmoid(x, epsilon), abs=1e-9)


def test_inverse_sigmoid_clamps_each_side_by_itself():
    x = torch.tensor([-1.0, 0.0, 1e-7, 0.5, 1.0, 2.0], dtype=torch.float64)
    low, high = math.log(1e-5), -math.log(1e-5)
    expected = [low, low, math.log(1e-5 / (1 - 1e-7)), 0.0, high, high]
    assert inverse_sigmoid(x, 1e-5).tolist() == pytest.approx(expected, abs=1e-12)


@given(
    delta=st.lists(floats(-8, 8), min_size=4, max_size=4),
    place=st.lists(floats(0, 1), min_size=4, max_size=4),
    size=st.sampled_from([2, 4]),
    epsilon=st.sampled_from([1e-5, 1e-3]),
)
def test_refine_equals_the_loop(delta, place, size, epsilon):
    out = refine(
        torch.tensor(delta, dtype=torch.float64),
        torch.tensor(place[:size], dtype=torch.float64),
        epsilon,
    )
    np.testing.assert_allclose(out, reference.refine(delta, place[:size], epsilon), atol=1e-9)


def test_refine_with_a_zero_correction_keeps_the_box():
    box = torch.tensor([[0.2, 0.7, 0.1, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(refine(torch.zeros_like(box), box, 1e-5), box)
