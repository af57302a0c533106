"""SAM-DETR's cross-attention, with and without SMCA's modulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.layers import GaussianModulation, SemanticAlignedAttention
from ms_detr.layers.semantics_aligner import SemanticsAligner, read_regions
from ms_detr.layers.transformer import LayerContext
from ms_detr.structures import Memory

from . import aligned_reference
from .reference import below
from .support import make_grid, padded, random, randomise

CHANNELS, HEADS, QUERIES = 8, 2, 3
PADDINGS = [[padded(3, 5, 3, 5)], [padded(3, 5, 2, 4)]]
SMOOTHING = {"plain": None, "modulated": 8.0}
# Beyond the image, wider than it, a line, a point, all of it, a cell.
BOXES = (
    (0.5, 0.5, 0.4, 0.6),
    (-0.4, 1.3, 0.5, 0.5),
    (0.5, 0.5, 2.5, 0.3),
    (0.3, 0.6, 0.0, 0.5),
    (0.9, 0.1, 0.0, 0.0),
    (0.5, 0.5, 1.0, 1.0),
    (0.1, 1 / 6, 0.2, 1 / 3),
)


def make(kind, dropout=0.0, scale=0.3):
    smoothing = SMOOTHING[kind]
    modulation = None if smoothing is None else GaussianModulation(smoothing)
    return randomise(SemanticAlignedAttention(CHANNELS, HEADS, dropout, modulation), scale=scale)


def make_context(paddings, boxes):
    grid = make_grid(paddings)
    shape = (*grid.padding_mask.shape, CHANNELS)
    return LayerContext(
        position=random(*boxes.shape[:2], CHANNELS, seed=5),
        reference=boxes,
        memory=Memory(random(*shape, seed=7), grid, random(*shape, seed=8)),
    )


def context(count=QUERIES):
    boxes = [BOXES[(i * 3 + b) % len(BOXES)] for b in range(2) for i in range(count)]
    return make_context(PADDINGS, torch.tensor(boxes, dtype=torch.float64).view(2, count, 4))


def expected(module, x, around, b, paddings, smoothing):
    """One image."""
    params, memory = dict(module.named_parameters()), around.memory
    update = aligned_reference.attention(
        params, x[b], around.reference[b], memory.tokens[b], memory.position[b],
        paddings[b][0], HEADS, smoothing,
    )  # fmt: skip
    return aligned_reference.layer_norm(x[b] + update, below(params, "norm"))


@pytest.mark.parametrize("kind", SMOOTHING)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), height=st.integers(1, 6), width=st.integers(1, 6))
def test_equals_the_loop(kind, data, height, width):
    paddings = [
        [padded(height, width, data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))]
        for _ in range(2)
    ]
    places = st.floats(-0.5, 1.5), st.floats(-0.5, 1.5), st.floats(0, 2), st.floats(0, 2)
    drawn = st.lists(st.sampled_from(BOXES) | st.tuples(*places), min_size=2, max_size=2)
    boxes = torch.tensor(data.draw(drawn), dtype=torch.float64)[:, None]
    around, x = make_context(paddings, boxes), random(2, 1, CHANNELS, seed=9)
    module = make(kind)
    out = module(x, around)
    for b in range(2):
        wanted = expected(module, x, around, b, paddings, SMOOTHING[kind])
        torch.testing.assert_close(out[b], wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", SMOOTHING)
def test_gradients_equal_the_loops(kind):
    """Of everything that goes in; boxes learn through the modulation alone."""
    module, around, x = make(kind), context(), random(2, QUERIES, CHANNELS, seed=9)
    memory = around.memory
    inputs = [x, around.reference, memory.tokens, memory.position]
    for tensor in inputs:
        tensor.requires_grad_()
    weights = random(2, QUERIES, CHANNELS, seed=3)
    slow = torch.stack(
        [expected(module, x, around, b, PADDINGS, SMOOTHING[kind]) for b in range(2)]
    )
    learned = [*inputs, *module.parameters()]
    names = ["x", "boxes", "tokens", "places", *(name for name, _ in module.named_parameters())]
    found, wanted = (
        torch.autograd.grad((out * weights).sum(), learned, allow_unused=True)
        for out in (module(x, around), slow)
    )
    for name, ours, theirs in zip(names, found, wanted, strict=True):
        if name == "boxes" and kind == "plain":
            assert ours is None or not ours.any()
            continue
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7, msg=lambda m, n=name: n + m)
    boxes = found[1]
    assert boxes is None or boxes[..., 2:].any() == (kind == "modulated")


@pytest.mark.parametrize("kind", SMOOTHING)
def test_gradcheck(kind):
    module, around, x = make(kind), context(1), random(2, 1, CHANNELS, seed=9)
    memory = around.memory
    inputs = [t.clone().requires_grad_() for t in (x, memory.tokens, memory.position)]

    def run(x, tokens, places):
        memory = Memory(tokens, around.memory.grid, places)
        return module(x, LayerContext(around.position, around.reference, memory))

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", SMOOTHING)
def test_weights_are_what_is_read(kind):
    """Of the identity as values, every head's part."""
    module, around, x = make(kind), context(), random(2, QUERIES, CHANNELS, seed=9)
    weights = module.head_weights(x, around)
    torch.testing.assert_close(module.token_weights(x, around), weights.mean(1))
    assert not weights.permute(0, 3, 1, 2)[around.memory.grid.padding_mask].any()
    values = module.value(around.memory.tokens).unflatten(2, (HEADS, -1)).transpose(1, 2)
    torch.testing.assert_close(module.close(x, weights @ values), module(x, around))


@pytest.mark.parametrize("kind", SMOOTHING)
def test_padding_is_no_key_but_regions_reach_into_it(kind):
    """As published: a box that crosses the border of the image reads what lies there."""
    module, x = make(kind), random(2, 2, CHANNELS, seed=9)
    inside = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4]], dtype=torch.float64)
    across = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.9, 0.9, 0.6, 0.6]], dtype=torch.float64)
    for boxes, same in ((inside, True), (across, False)):
        around = make_context(PADDINGS, boxes.expand(2, -1, -1))
        before = module(x, around)
        around.memory.tokens[around.memory.grid.padding_mask] = 1e3
        after = module(x, around)
        assert torch.equal(before[0], after[0])
        assert torch.allclose(before[1], after[1]) == same


def test_zero_size_reads_nothing():
    around = context()
    boxes = around.reference.clone()
    boxes[0, 0, 2:] = 0
    regions = read_regions(around.memory, boxes)
    assert regions.shape == (2, QUERIES, CHANNELS, 7, 7)
    assert not regions[0, 0].any()


@pytest.mark.parametrize("kind", SMOOTHING)
def test_dropout_on_the_attention_weights_and_on_the_branch(kind):
    module, around, x = make(kind, dropout=1.0), context(), random(2, QUERIES, CHANNELS)
    torch.testing.assert_close(module.eval()(x, around), make(kind).eval()(x, around))
    module.train()
    torch.testing.assert_close(module(x, around), module.norm(x))
    # Without the branch's dropout what is left is the output's bias.
    module.dropout.register_forward_hook(lambda _, inputs, out: inputs[0])
    torch.testing.assert_close(module(x, around), module.norm(x + module.output.bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_no_query_without_tokens(dtype):
    """Scales so large that all maps would be infinitely low."""
    module = make("modulated", scale=0.2)
    last = module.aligner.predictor[-1]
    last.bias.data[2 * HEADS :] = 1e4
    around = make_context(PADDINGS, torch.full((2, 2, 4), 5.0, dtype=torch.float64))
    memory = around.memory
    memory = Memory(memory.tokens.to(dtype), memory.grid, memory.position.to(dtype))
    x = random(2, 2, CHANNELS).to(dtype)
    out = module.to(dtype)(x, LayerContext(x, around.reference, memory))
    assert out.dtype == dtype and out.isfinite().all()


def test_one_map_at_a_time():
    paddings = [[padded(3, 5, 3, 5), padded(2, 3, 2, 3)]] * 2
    around = make_context(paddings, context().reference)
    with pytest.raises(ValueError, match=r"has 2 levels: set model\.decoder\.levels"):
        make("plain")(random(2, QUERIES, CHANNELS), around)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="embed_dim 8 is not a multiple of num_heads 3"):
        SemanticAlignedAttention(8, 3)
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        SemanticsAligner(6, 2)
    with pytest.raises(ValueError, match=r"modulation\.smoothing must be above 0"):
        GaussianModulation(0.0)


def test_start():
    """Points start where the region says, close to its centre; nothing of it is shared."""
    torch.manual_seed(0)
    aligner = SemanticsAligner(64, 4, num_scales=2)
    assert not aligner.predictor[-1].bias.any()
    for weight in (aligner.predictor[0].weight[:, :, 0, 0], aligner.predictor[-1].weight):
        bound = np.sqrt(6 / sum(weight.shape))
        assert 0.98 * bound < weight.abs().max() <= bound
