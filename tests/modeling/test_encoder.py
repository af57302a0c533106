import numpy as np
import torch

from ms_detr.layers import FFN, MLP, DeformableAttention, DeformableSublayer
from ms_detr.modeling import Encoder, EncoderLayer
from ms_detr.structures import FeaturePyramid

from ..layers.reference import below, parameters
from ..layers.support import make_grid, padded, random, randomise
from . import reference

PADDINGS = [
    [padded(3, 4, 3, 4), padded(2, 2, 2, 2)],
    [padded(3, 4, 2, 3), padded(2, 2, 1, 2)],
]


def test_equals_the_loop():
    attention = DeformableSublayer(8, DeformableAttention(8, 2, num_levels=2, num_points=3))
    encoder = randomise(Encoder(EncoderLayer(attention, FFN(8, 12)), num_layers=2), scale=0.4)
    grid = make_grid(PADDINGS)
    tokens, position = random(2, 16, 8, seed=1), random(2, 16, 8, seed=2)
    memory = encoder(FeaturePyramid(tokens, position, grid))
    assert memory.grid is grid
    params = parameters(encoder)
    for b, levels in enumerate(PADDINGS):
        x = tokens[b].numpy()
        places = reference.on_levels(reference.encoder_reference(levels), levels)
        for i in range(2):
            x = reference.encoder_layer(
                below(params, f"layers.{i}"),
                x,
                position[b].numpy(),
                places,
                grid.padding_mask[b].numpy(),
                grid.level_shapes,
                heads=2,
                points=3,
            )
        np.testing.assert_allclose(memory.tokens[b].detach(), x, atol=1e-9)


def test_scaled_positions():
    """One scale for all layers, of every layer's input; the decoder sees positions without it."""
    attention = DeformableSublayer(8, DeformableAttention(8, 2, num_levels=2, num_points=3))
    scale = MLP(8, 8, 8, 2)
    encoder = Encoder(EncoderLayer(attention, FFN(8, 12)), num_layers=2, position_scale=scale)
    randomise(encoder, scale=0.4)
    grid = make_grid(PADDINGS)
    tokens, position = random(2, 16, 8, seed=1), random(2, 16, 8, seed=2)
    memory = encoder(FeaturePyramid(tokens, position, grid))
    assert memory.position is position
    for layer in encoder.layers:
        tokens = layer(tokens, position * scale(tokens), grid.centers(), grid)
    torch.testing.assert_close(memory.tokens, tokens)
    bound = (6 / 16) ** 0.5
    fresh = Encoder(EncoderLayer(attention, FFN(8, 12)), 1, MLP(8, 8, 8, 2)).position_scale
    assert 0.8 * bound < fresh[0].weight.abs().max() <= bound


def test_gradients_reach_tokens_and_positions():
    attention = DeformableSublayer(8, DeformableAttention(8, 2, num_levels=2, num_points=3))
    encoder = randomise(Encoder(EncoderLayer(attention, FFN(8, 12)), num_layers=1))
    tokens = random(2, 16, 8, seed=1).requires_grad_()
    position = random(2, 16, 8, seed=2).requires_grad_()
    memory = encoder(FeaturePyramid(tokens, position, make_grid(PADDINGS)))
    for gradient in torch.autograd.grad(memory.tokens.square().sum(), (tokens, position)):
        assert (gradient.abs().sum(-1) > 0).all()
