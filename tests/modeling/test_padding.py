"""What padding may change: nothing from the neck's output on, once it is chosen for no query.

Backbone and neck see padding as black image, and group norm takes it into its statistics, as in
the published code; only their masks, positions and ratios are free of it. With `ignore_padding` the
neck is too: see `test_neck`.
"""

import numpy as np
import pytest
import torch

from ms_detr.layers import FFN, DeformableAttention, DeformableSublayer
from ms_detr.modeling import BoxHead, ClassHead, Encoder, EncoderLayer, TwoStageInitializer
from ms_detr.structures import FeaturePyramid
from ms_detr.variants import DINOInitializer

from ..layers.support import make_grid, padded, random, randomise
from .test_decoder import make as make_decoder

DIM, QUERIES = 8, 5
# Sizes that divide the image make level cells line up.
VALID = [(6, 8), (3, 4)]


def make_parts():
    attention = DeformableSublayer(DIM, DeformableAttention(DIM, 2, num_levels=2, num_points=3))
    encoder = randomise(Encoder(EncoderLayer(attention, FFN(DIM, 12)), num_layers=2), scale=0.3)
    heads = ClassHead(DIM, 3), BoxHead(DIM)
    initializer = randomise(TwoStageInitializer(QUERIES, DIM, *heads, anchor_size=0.1), seed=9)
    return encoder, initializer, make_decoder()


def pyramid(shapes, seed=0):
    """The same image in the upper left of maps of `shapes`, other values in padding."""
    paddings = [padded(*shape, *part) for shape, part in zip(shapes, VALID, strict=True)]
    tokens, position = [], []
    for level, padding in enumerate(paddings):
        inside = torch.from_numpy(~padding)
        for made, first in ((tokens, 10), (position, 20)):
            content = random(*padding.shape, DIM, seed=seed + 99)
            part = random(*VALID[level], DIM, seed=first + level)
            content[inside] = part.flatten(0, 1)
            made.append(content.flatten(0, 1))
    grid = make_grid([paddings])
    return FeaturePyramid(torch.cat(tokens)[None], torch.cat(position)[None], grid)


def predict(shapes, supervised):
    encoder, initializer, decoder = make_parts()
    memory = encoder(pyramid(shapes))
    queries, proposals = initializer(memory, supervised)
    return memory, queries, proposals, decoder(queries, memory, supervised)


@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize(
    "shapes", [[(6, 9), (3, 5)], [(11, 8), (6, 4)], [(13, 17), (7, 9)]], ids=str
)
def test_predictions_do_not_depend_on_the_amount_of_padding(shapes, supervised):
    alone, alone_queries, _, expected = predict(VALID, supervised)
    memory, queries, proposals, made = predict(shapes, supervised)
    inside = ~memory.grid.padding_mask[0]
    torch.testing.assert_close(memory.tokens[0, inside], alone.tokens[0], rtol=0, atol=1e-9)
    # No invalid token is among the best of this image, so padding competes with nobody.
    assert (alone_queries.reference < 1).all()
    torch.testing.assert_close(queries.reference, alone_queries.reference, rtol=0, atol=1e-9)
    for source in expected:
        for name in ("logits", "boxes"):
            torch.testing.assert_close(
                getattr(made[source], name), getattr(expected[source], name), rtol=0, atol=1e-8
            )
    if supervised:
        boxes = proposals["encoder"].boxes[0, 0].detach().numpy()
        assert (boxes[~inside.numpy()] == 1).all()
        assert np.isfinite(boxes).all()


def eager(kind, ignore_padding):
    """An initialiser that scores a token without content, such as padding, above all others."""
    heads = ClassHead(DIM, 3), BoxHead(DIM)
    options = dict(anchor_size=0.1, ignore_padding=ignore_padding)
    initializer = randomise(kind(QUERIES, DIM, *heads, **options), seed=9)
    with torch.no_grad():
        nothing = torch.zeros(1, DIM).double()
        empty = initializer.token_norm(initializer.token_projection(nothing))[0]
        initializer.class_head.weight[:] = 9 * empty
    return initializer


@pytest.mark.parametrize("kind", [TwoStageInitializer, DINOInitializer])
@pytest.mark.parametrize("supervised", [False, True])
def test_padding_becomes_no_query_where_it_is_ignored(kind, supervised):
    encoder, _, _ = make_parts()
    shapes = [(11, 8), (6, 4)]
    alone, together = encoder(pyramid(VALID)), encoder(pyramid(shapes))
    expected = eager(kind, False)(alone, supervised)[0].reference
    assert (expected < 1).all()
    found = eager(kind, True)(together, supervised)[0].reference
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    # As published, all queries are padding.
    assert (eager(kind, False)(together, supervised)[0].reference == 1).all()


@pytest.mark.parametrize("kind", [TwoStageInitializer, DINOInitializer])
def test_padding_fills_up_where_the_image_has_too_few_tokens(kind):
    memory = make_parts()[0](pyramid([(11, 8), (6, 4)]))
    initializer = eager(kind, True)
    initializer.num_queries = 62  # of 60 tokens
    if kind is DINOInitializer:
        initializer.content = torch.nn.Parameter(random(62, DIM))
    reference = initializer(memory, False)[0].reference
    assert reference.shape == (1, 62, 4)
    assert (reference == 1).all(-1).sum() == 2
