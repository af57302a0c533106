import math

import numpy as np
import pytest
import torch
from torch import nn

from ms_detr.layers import DeformableAttention

from . import reference
from .support import make_memory, on_levels, padded, random, randomise

PADDINGS = [
    [padded(3, 4, 3, 4), padded(2, 2, 2, 2), padded(1, 1, 1, 1)],
    [padded(3, 4, 2, 3), padded(2, 2, 1, 2), padded(1, 1, 1, 1)],
]


def make_places(size, queries=5):
    """References (2, Q, 2 or 4), some at the border."""
    return random(2, queries, size, seed=3).sigmoid() * 1.2 - 0.1


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("heads", "points"), [(4, 3), (2, 1), (1, 4)])
def test_equals_the_loop(size, heads, points):
    module = randomise(DeformableAttention(8, heads, num_levels=3, num_points=points), scale=0.7)
    memory = make_memory(PADDINGS, 8, seed=1)
    query, places = random(2, 5, 8, seed=2), make_places(size)
    out = module(query, places, memory)
    for b in range(2):
        expected = reference.deformable_module(
            reference.parameters(module),
            query[b].numpy(),
            on_levels(places, PADDINGS)[b],
            memory.tokens[b].numpy(),
            memory.grid.padding_mask[b].numpy(),
            memory.grid.level_shapes,
            heads,
            points,
        )
        np.testing.assert_allclose(out[b].detach(), expected, atol=1e-9)


@pytest.mark.parametrize("size", [2, 4])
def test_padding_is_never_read(size):
    module = randomise(DeformableAttention(8, 2, num_levels=3, num_points=2))
    memory, other = make_memory(PADDINGS, 8, seed=1), make_memory(PADDINGS, 8, seed=1)
    other.tokens[other.grid.padding_mask] = 1e3
    query, places = random(2, 5, 8, seed=2), make_places(size)
    assert torch.equal(module(query, places, memory), module(query, places, other))


def test_starts_as_a_ring_of_directions():
    module = DeformableAttention(embed_dim=32, num_heads=8, num_levels=4, num_points=4)
    assert module.sampling_offsets.weight.abs().max() == 0
    bias = module.sampling_offsets.bias.detach().view(8, 4, 4, 2)
    for head in range(8):
        x, y = math.cos(2 * math.pi * head / 8), math.sin(2 * math.pi * head / 8)
        largest = max(abs(x), abs(y))
        for level in range(4):
            for point in range(4):
                expected = (x / largest * (point + 1), y / largest * (point + 1))
                assert bias[head, level, point].tolist() == pytest.approx(expected, abs=1e-5)


def test_starts_with_uniform_weights_and_xavier_projections():
    torch.manual_seed(0)
    module = DeformableAttention(embed_dim=64)
    assert module.attention_weights.weight.abs().max() == 0
    assert module.attention_weights.bias.abs().max() == 0
    bound = math.sqrt(6 / (64 + 64))
    for linear in (module.value_proj, module.output_proj):
        assert linear.bias.abs().max() == 0
        assert 0.98 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_channels_must_split_into_heads():
    with pytest.raises(ValueError, match="embed_dim 10 is not a multiple of num_heads 4"):
        DeformableAttention(10, num_heads=4)


def test_has_no_dropout():
    module = DeformableAttention(8, 2, 3, 2)
    assert not any(isinstance(child, nn.Dropout) for child in module.modules())
    module.double().train()
    memory, query = make_memory(PADDINGS, 8), random(2, 5, 8)
    first, second = (module(query, make_places(2), memory) for _ in range(2))
    assert torch.equal(first, second)
