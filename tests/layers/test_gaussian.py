"""Gaussian maps against cell-by-cell loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.layers.gaussian import log_gaussian

from .support import random


def slow(centers, scales, shape, offset, smoothing):
    """The sheet's sum for every cell (H * W) of one query."""
    cx, cy = centers
    out = []
    for row in range(shape[0]):
        for column in range(shape[1]):
            dx, dy = column + offset - cx, row + offset - cy
            total = (scales[0] * dx) ** 2 + (scales[1] * dy) ** 2
            if len(scales) == 3:
                total += (scales[2] * dx * dy) ** 2
            out.append(-total / smoothing)
    return np.array(out)


@pytest.mark.parametrize("factors", [2, 3])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_equals_the_loop(factors, offset):
    centers, scales = random(2, 3, 4, 2, seed=1) * 5, random(2, 3, 4, factors, seed=2)
    out = log_gaussian(centers, scales, (5, 7), offset, smoothing=6.0)
    assert out.shape == (2, 3, 4, 35) and out.dtype == torch.float64
    for at in np.ndindex(2, 3, 4):
        expected = slow(centers[at].tolist(), scales[at].tolist(), (5, 7), offset, 6.0)
        np.testing.assert_allclose(out[at], expected, rtol=1e-12, atol=1e-12)


@given(
    center=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    scales=st.lists(st.floats(-3, 3), min_size=2, max_size=3),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    offset=st.sampled_from([0.0, 0.5]),
)
def test_any_centre_scale_and_map(center, scales, shape, offset):
    out = log_gaussian(
        torch.tensor(center, dtype=torch.float64),
        torch.tensor(scales, dtype=torch.float64),
        shape,
        offset,
    )
    np.testing.assert_allclose(out, slow(center, scales, shape, offset, 8.0), atol=1e-9, rtol=1e-12)
    assert (out <= 0).all()


def test_at_the_centre_nothing_is_added_and_around_it_distances_count():
    """With scales of 1 it is -r^2 / 8."""
    out = log_gaussian(torch.tensor([2.0, 1.0]), torch.ones(2), (3, 6), 0.0).view(3, 6)
    assert out[1, 2] == 0
    assert out[2, 5] == -10 / 8
    assert log_gaussian(torch.tensor([2.5, 1.5]), torch.ones(2), (3, 6), 0.5).view(3, 6)[1, 2] == 0


@pytest.mark.parametrize("factors", [2, 3])
def test_gradients(factors):
    centers = (random(2, 2, 2, seed=3) * 3).requires_grad_()
    scales = random(2, 2, factors, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *inputs: log_gaussian(*inputs, (3, 4), 0.5), (centers, scales)
    )


def test_places_keep_their_precision():
    centers, scales = torch.full((1, 2), 100.25), torch.ones(1, 2, dtype=torch.float16)
    assert log_gaussian(centers, scales, (2, 2), 0.0).dtype == torch.float32


@pytest.mark.parametrize("smoothing", [0.0, -1.0])
def test_smoothing_is_positive(smoothing):
    with pytest.raises(ValueError, match="must be above 0"):
        log_gaussian(torch.zeros(2), torch.ones(2), (2, 2), 0.0, smoothing)


def test_a_cell_apart_halves_at_the_right_distance():
    """exp(-d^2 / 8) is a half at d = sqrt(8 ln 2)."""
    center = torch.tensor([math.sqrt(8 * math.log(2)), 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        log_gaussian(center, torch.ones(2).double(), (1, 1), 0.0).exp(),
        torch.tensor([0.5], dtype=torch.float64),
    )
