"""Attention with Gaussian maps, head by head and query by query."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ms_detr.layers import DenseAttention, IntraScaleAttention, ModulatedAttention
from ms_detr.layers.gaussian import HeadGaussians
from ms_detr.layers.transformer import LayerContext, init_transformer
from ms_detr.structures import Memory

from .reference import below, layer_norm, linear, parameters, softmax
from .support import make_grid, padded, random, randomise
from .test_gaussian import slow

CHANNELS, HEADS, QUERIES = 8, 2, 5
PADDINGS = {
    1: [[padded(3, 4, 3, 4)], [padded(3, 4, 2, 3)]],
    3: [
        [padded(4, 5, 4, 5), padded(2, 3, 2, 3), padded(1, 2, 1, 2)],
        [padded(4, 5, 3, 2), padded(2, 3, 2, 1), padded(1, 2, 1, 1)],
    ],
}
SCALES = range(4)


def context(levels=1):
    grid = make_grid(PADDINGS[levels])
    tokens = grid.padding_mask.shape[1]
    return LayerContext(
        position=random(2, QUERIES, CHANNELS, seed=5),
        reference=random(2, QUERIES, 2, seed=6).sigmoid(),
        memory=Memory(
            random(2, tokens, CHANNELS, seed=7), grid, random(2, tokens, CHANNELS, seed=10)
        ),
        spatial=random(2, QUERIES, CHANNELS, seed=8),
    )


def make(levels=1, scales=2, dropout=0.0, heads=HEADS):
    return randomise(
        ModulatedAttention(CHANNELS, heads, dropout, levels, scales, smoothing=6.0), scale=0.4
    )


def bias(params, states, center, shape):
    """Logarithms of the Gaussians of one query on one level, (heads, h * w)."""
    offsets = linear(states, below(params, "offset")).reshape(HEADS, 2)
    maps = []
    for m in range(HEADS):
        scales = [1.0, 1.0]
        if "scale.weight" in params:
            own = linear(states, below(params, "scale")).reshape(HEADS, -1)[m]
            scales = [own[0], own[0]] if len(own) == 1 else own.tolist()
        maps.append(slow(center + offsets[m], scales, shape, 0.0, 6.0))
    return np.array(maps)


def expected(params, x, around, b):
    """What each query reads and how much of each token, level by level."""
    memory = around.memory
    weight, bias_ = params["attention.in_proj_weight"], params["attention.in_proj_bias"]
    tokens, place = memory.tokens[b].numpy(), memory.position[b].numpy()
    inputs = x + around.position[b].numpy(), tokens + place, tokens
    query, key, value = (
        (y @ weight[k * CHANNELS :][:CHANNELS].T + bias_[k * CHANNELS :][:CHANNELS]).reshape(
            len(y), HEADS, -1
        )
        for k, y in enumerate(inputs)
    )
    out = np.zeros((QUERIES, HEADS, CHANNELS // HEADS))
    taken = np.zeros((QUERIES, len(tokens)))
    for q in range(QUERIES):
        states = around.spatial[b, q].numpy()
        shares = [1.0]
        if "selection.weight" in params:
            shares = softmax(linear(states, below(params, "selection")))
        start = 0
        for v, (mask, share) in enumerate(zip(PADDINGS[len(shares)][b], shares, strict=True)):
            cells = (~mask[0]).sum(), (~mask[:, 0]).sum()
            center = around.reference[b, q].numpy() * cells
            added = bias(below(params, f"gaussians.{v}"), states, center, mask.shape)
            seen = [s for s in range(mask.size) if not mask.ravel()[s]]
            for m in range(HEADS):
                logits = [
                    query[q, m] @ key[start + s, m] / np.sqrt(CHANNELS // HEADS) + added[m, s]
                    for s in seen
                ]
                for w, s in zip(softmax(np.array(logits)), seen, strict=True):
                    out[q, m] += share * w * value[start + s, m]
                    taken[q, start + s] += share * w / HEADS
            start += mask.size
    return linear(out.reshape(QUERIES, -1), below(params, "attention.out_proj")), taken


@pytest.mark.parametrize("levels", PADDINGS)
@pytest.mark.parametrize("scales", SCALES)
def test_equals_the_loop(levels, scales):
    module, x, around = make(levels, scales), random(2, QUERIES, CHANNELS, seed=9), context(levels)
    out, weights = module(x, around), module.token_weights(x, around)
    params = parameters(module)
    for b in range(2):
        update, taken = expected(params, x[b].numpy(), around, b)
        normed = layer_norm(x[b].numpy() + update, below(params, "norm"))
        np.testing.assert_allclose(out[b].detach(), normed, atol=1e-9)
        np.testing.assert_allclose(weights[b].detach(), taken, atol=1e-9)


@pytest.mark.parametrize("levels", PADDINGS)
def test_it_is_made_of_its_token_weights(levels):
    module, x, around = make(levels, heads=1), random(2, QUERIES, CHANNELS), context(levels)
    value = module.project(*[around.memory.tokens] * 3)[2][:, 0]
    update = module.attention.out_proj(module.token_weights(x, around) @ value)
    torch.testing.assert_close(module.add(x, update), module(x, around))


@pytest.mark.parametrize("levels", PADDINGS)
@pytest.mark.parametrize("scales", SCALES)
def test_gradients(levels, scales):
    module, around = make(levels, scales), context(levels)
    inputs = random(2, 2, CHANNELS, seed=9), around.position[:, :2], around.reference[:, :2]
    memory = around.memory
    inputs = (*inputs, memory.tokens, memory.position, around.spatial[:, :2])

    def run(x, position, centers, tokens, place, states):
        memory = Memory(tokens, around.memory.grid, place)
        return module(x, LayerContext(position, centers, memory, spatial=states))

    inputs = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("levels", PADDINGS)
def test_padding_is_never_read(levels):
    module, x, around = make(levels), random(2, QUERIES, CHANNELS, seed=9), context(levels)
    before = module(x, around)
    around.memory.tokens[around.memory.grid.padding_mask] = 1e6
    around.memory.position[around.memory.grid.padding_mask] = -1e6
    torch.testing.assert_close(module(x, around), before)


def test_without_learned_scales_and_offsets_it_looks_around_the_centre():
    """A Gaussian so narrow that each query reads the cell at its centre alone."""
    module, x, around = make(scales=0), random(2, QUERIES, CHANNELS), context()
    with torch.no_grad():
        module.gaussians[0].smoothing = 1e-3
        module.gaussians[0].offset.weight.zero_()
        module.gaussians[0].offset.bias.zero_()
    centers = torch.tensor([(2, 1), (0, 0), (1, 1), (0, 1), (2, 0)])  # cells (x, y)
    around = replace(around, reference=centers.double().expand(2, -1, -1) / torch.tensor([4, 3]))
    weights = module.token_weights(x, around)[0].view(QUERIES, 3, 4)
    for q, (column, row) in enumerate(centers.tolist()):
        torch.testing.assert_close(weights[q, row, column].item(), 1.0)


@pytest.mark.parametrize("scales", SCALES)
def test_scales_start_at_one(scales):
    """Whatever the queries are, and after a transformer's initialisation as well."""
    module = ModulatedAttention(CHANNELS, HEADS, scales=scales)
    init_transformer(module)
    gaussians = module.gaussians[0]
    assert gaussians.offset.weight.abs().max() > 0
    states, centers = torch.randn(1, 3, CHANNELS), torch.randn(1, 3, 2)
    offsets = gaussians.offset(states).view(1, 3, HEADS, 2)
    out = gaussians(states, centers, (2, 3))
    for q in range(3):
        for m in range(HEADS):
            center = (centers[0, q] + offsets[0, q, m]).tolist()
            ones = [1.0] * max(2, scales)
            np.testing.assert_allclose(
                out[0, m, q].detach(), slow(center, ones, (2, 3), 0.0, 8.0), atol=1e-5
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_what_is_near_a_far_centre(dtype):
    """300 cells away the logarithms are beyond half precision; their differences are not."""
    module, x, around = make(scales=0).float(), random(2, QUERIES, CHANNELS), context()
    around = LayerContext(
        position=torch.zeros(2, QUERIES, CHANNELS),
        reference=torch.full((2, QUERIES, 2), 100.0),
        memory=Memory(*(torch.zeros(2, 12, CHANNELS), make_grid(PADDINGS[1])), position=0.0),
        spatial=torch.zeros(2, QUERIES, CHANNELS),
    )
    grid = around.memory.grid
    around = replace(
        around,
        memory=replace(around.memory, grid=replace(grid, valid_ratios=grid.valid_ratios.float())),
    )
    exact = module.token_weights(x.float(), around)
    half = module.to(dtype)
    around = replace(
        around,
        position=around.position.to(dtype),
        spatial=around.spatial.to(dtype),
        memory=replace(around.memory, tokens=around.memory.tokens.to(dtype)),
    )
    found = half.token_weights(x.to(dtype), around)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0)
    assert half(x.to(dtype), around).isfinite().all()


def test_dropout_on_the_attention_weights_and_on_the_branch():
    module, x, around = make(dropout=1.0), random(2, QUERIES, CHANNELS), context()
    torch.testing.assert_close(module.eval()(x, around), make().eval()(x, around))
    module.train()
    torch.testing.assert_close(module(x, around), module.norm(x))
    module.dropout.register_forward_hook(lambda _, inputs, out: inputs[0])
    torch.testing.assert_close(module(x, around), module.norm(x + module.attention.out_proj.bias))


def test_what_it_cannot_do():
    x, around = random(2, QUERIES, CHANNELS), context()
    with pytest.raises(ValueError, match=r"doesn't make: take SMCAInitializer"):
        make()(x, replace(around, spatial=None))
    with pytest.raises(ValueError, match=r"num_levels is 3, but the neck makes 1 level"):
        make(levels=3)(x, around)
    with pytest.raises(ValueError, match="0 to 3 scales, got 4"):
        HeadGaussians(CHANNELS, HEADS, scales=4)
    with pytest.raises(ValueError, match="embed_dim 8 is not a multiple of num_heads 3"):
        ModulatedAttention(8, 3)


def test_tokens_of_a_level_see_their_own_level():
    """Each level as if it were alone, by the weights of dense attention."""
    around, module = context(3), randomise(IntraScaleAttention(CHANNELS, HEADS))
    memory = around.memory
    own = LayerContext(memory.position, memory.tokens, memory)
    out = module(memory.tokens, own)
    dense = DenseAttention(CHANNELS, HEADS).double()
    dense.load_state_dict(module.state_dict())
    start = 0
    for v in range(3):
        grid = make_grid([[levels[v]] for levels in PADDINGS[3]])
        stop = start + grid.padding_mask.shape[1]
        tokens, place = memory.tokens[:, start:stop], memory.position[:, start:stop]
        alone = dense(tokens, LayerContext(place, tokens, Memory(tokens, grid, place)))
        torch.testing.assert_close(out[:, start:stop], alone)
        start = stop
