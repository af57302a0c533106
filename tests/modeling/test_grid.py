from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.structures import TokenGrid

from ..layers.support import make_grid, make_memory, padded, random
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


def test_a_level_of_a_grid_and_of_a_memory():
    paddings = [[padded(2, 3, 2, 2), padded(4, 1, 3, 1)] for _ in range(2)]
    memory = make_memory(paddings, channels=4)
    memory = replace(memory, position=random(2, 10, 4, seed=2))
    for index, tokens in enumerate((slice(0, 6), slice(6, 10))):
        level = memory.level(index)
        assert torch.equal(level.tokens, memory.tokens[:, tokens])
        assert torch.equal(level.position, memory.position[:, tokens])
        expected = make_grid([[levels[index]] for levels in paddings])
        assert level.grid.level_shapes == expected.level_shapes
        assert torch.equal(level.grid.padding_mask, expected.padding_mask)
        assert torch.equal(level.grid.valid_ratios, expected.valid_ratios)


@settings(max_examples=60)
@given(
    images=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=3),
    strides=st.lists(st.sampled_from([8, 16, 32, 64]), min_size=1, max_size=3),
)
def test_extents_are_pixels_by_the_stride(images, strides):
    """Whatever the padding: of whole images, in fractions of cells."""
    height, width = (max(max(image[axis] for image in images), 65) for axis in (0, 1))
    image_mask = torch.from_numpy(np.stack([padded(height, width, *image) for image in images]))
    masks = [image_mask[:, ::stride, ::stride] for stride in strides]
    extents = TokenGrid.of(masks, torch.float64, image_mask).extents()
    expected = [[(w / stride, h / stride) for stride in strides] for h, w in images]
    assert extents.tolist() == [[list(place) for place in levels] for levels in expected]


def test_extents_of_maps_alone_are_whole_cells():
    extents = make_grid([[padded(4, 5, 3, 2), padded(2, 2, 2, 1)]]).extents()
    torch.testing.assert_close(extents, torch.tensor([[[2, 3], [1, 2]]], dtype=torch.float64))


def test_where_one_direction_has_one_cell_the_other_tells_the_stride():
    image_mask = torch.zeros(1, 16, 70, dtype=torch.bool)
    grid = TokenGrid.of([image_mask[:, ::32, ::32]], torch.float64, image_mask)
    assert grid.extents().tolist() == [[[70 / 32, 0.5]]]
