import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ..layers.support import make_grid, padded
from . import reference

sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3)


@st.composite
def paddings(draw, images=2):
    """Masks of every image and level, at least one cell of each unpadded."""
    shapes = draw(sizes)

    def part(size):
        return draw(st.integers(1, size))

    return [[padded(h, w, part(h), part(w)) for h, w in shapes] for _ in range(images)]


@settings(max_examples=40)
@given(paddings=paddings())
def test_centers_equal_the_loop(paddings):
    grid = make_grid(paddings)
    out = grid.centers()
    assert grid.level_sizes == [mask.size for mask in paddings[0]]
    for b, levels in enumerate(paddings):
        np.testing.assert_allclose(out[b], reference.encoder_reference(levels), atol=1e-12)


@pytest.mark.parametrize("size", [2, 4])
@settings(max_examples=20)
@given(paddings=paddings(), seed=st.integers(0, 99))
def test_references_on_levels_equal_the_loop(size, paddings, seed):
    places = np.random.default_rng(seed).random((2, 3, size))
    out = make_grid(paddings).scale_to_levels(torch.from_numpy(places))
    for b, levels in enumerate(paddings):
        np.testing.assert_allclose(out[b], reference.on_levels(places[b], levels), atol=1e-12)
