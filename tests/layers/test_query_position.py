import math

import numpy as np
import pytest
import torch

from ms_detr.layers.query_position import BoxPosition, ContentScale, SpatialQuery

from . import reference
from .reference import below, parameters
from .support import make_grid, padded, random, randomise

DIM, QUERIES = 8, 5
PADDINGS = [
    [padded(4, 5, 3, 4), padded(2, 3, 2, 2)],
    [padded(4, 5, 4, 2), padded(2, 3, 1, 3)],
]


def inputs(size=4):
    """References and content."""
    return random(2, QUERIES, size, seed=1).sigmoid(), random(2, QUERIES, DIM, seed=2)


def mlp(params, x):
    """Two linear layers."""
    return reference.feed_forward(x, below(params, "0"), below(params, "2"))


def box_position(params, layer, box, content):
    """Position of one query; sines of y, x, width and height in this order."""
    x, y, width, height = box
    encoded = reference.sine_embedding([y, x, width, height], DIM // 2)
    position = mlp(below(params, "mlp"), encoded)
    if "scale.mlp.0.weight" in params and layer > 0:
        position = position * mlp(below(params, "scale.mlp"), content)
    return position


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_position_of_a_box(scaled, layer):
    module = randomise(BoxPosition(DIM, scaled))
    boxes, content = inputs()
    out = module(layer, boxes, content)
    for b in range(2):
        for q in range(QUERIES):
            expected = box_position(
                parameters(module), layer, boxes[b, q].tolist(), content[b, q].numpy()
            )
            np.testing.assert_allclose(out[b, q].detach(), expected, atol=1e-12)


def test_position_on_the_first_level_counts_its_padding():
    module = randomise(BoxPosition(DIM, scaled=True))
    boxes, content = inputs()
    out = module.on_first_level(make_grid(PADDINGS))(2, boxes, content)
    for b, (width, height) in enumerate([(4 / 5, 3 / 4), (2 / 5, 4 / 4)]):
        for q in range(QUERIES):
            box = boxes[b, q].numpy() * (width, height, width, height)
            expected = box_position(parameters(module), 2, box, content[b, q].numpy())
            np.testing.assert_allclose(out[b, q].detach(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("layer", [0, 1])
def test_spatial_query_is_of_the_centre(size, layer):
    module = randomise(SpatialQuery(DIM))
    places, content = inputs(size)
    out = module(layer, places, content)
    for b in range(2):
        for q in range(QUERIES):
            x, y = places[b, q, :2].tolist()
            expected = reference.sine_embedding([y, x], DIM // 2)
            if layer > 0:
                expected = expected * mlp(
                    below(parameters(module), "scale.mlp"), content[b, q].numpy()
                )
            np.testing.assert_allclose(out[b, q].detach(), expected, atol=1e-12)


def test_what_is_learned_through_the_layers():
    """The reference learns too, where it may; the first layer asks nothing of the content."""
    module = randomise(BoxPosition(DIM, scaled=True))
    boxes, content = (x.requires_grad_() for x in inputs())
    for layer, used in ((0, False), (1, True)):
        loss = module(layer, boxes, content).square().sum()
        by_box, by_content = torch.autograd.grad(loss, (boxes, content), allow_unused=True)
        assert (by_box != 0).all()
        assert (by_content is not None) == used


def test_start():
    torch.manual_seed(0)
    for module in (BoxPosition(64).mlp, ContentScale(64).mlp):
        for linear in (module[0], module[2]):
            bound = math.sqrt(6 / sum(linear.weight.shape))
            assert 0.98 * bound < linear.weight.abs().max() <= bound
