"""What cross-attention reads: attention's own output is made of it; planted attention is found."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ms_detr.analysis import Attention, Sample
from ms_detr.analysis.attention import watched
from ms_detr.analysis.matching import one_to_one
from ms_detr.errors import ConfigError
from ms_detr.layers import (
    ConditionalAttention,
    DeformableAttention,
    DeformableSublayer,
    DenseAttention,
    LayerContext,
)
from ms_detr.layers.deformable_attention import splat
from ms_detr.meta_arch import OUTPUT
from ms_detr.structures import Memory, TokenGrid

DIM, QUERIES, SHAPES = 8, 5, ((6, 7), (3, 4))


def context_of(batch=2):
    masks = []
    for height, width in SHAPES:
        mask = torch.zeros(batch, height, width, dtype=torch.bool)
        mask[1, :, width // 2 :] = True
        masks.append(mask)
    grid = TokenGrid.of(masks, torch.float64)
    tokens, place = torch.randn(2, batch, sum(h * w for h, w in SHAPES), DIM)
    return LayerContext(
        position=torch.randn(batch, QUERIES, DIM),
        reference=torch.rand(batch, QUERIES, 4),
        memory=Memory(tokens, grid, place),
        spatial=torch.randn(batch, QUERIES, DIM),
    )


def drawn(module):
    """With parameters that are drawn, that nothing is at its start."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def test_splat_is_what_interpolation_reads(float64):
    """The sum of a map times the spread weights is that of its interpolated values times them."""
    height, width, places = 5, 8, 40
    level, weights = torch.randn(height, width), torch.rand(3, places)
    locations = torch.rand(3, places, 2) * 1.4 - 0.2  # some outside
    read = F.grid_sample(
        level.expand(3, 1, -1, -1), locations[:, None] * 2 - 1, align_corners=False
    )[:, 0, 0]
    spread = splat(locations, weights, (height, width))
    torch.testing.assert_close((spread * level).sum((1, 2)), (read * weights).sum(1))


def test_deformable_attention_is_made_of_its_token_weights(float64):
    attention = drawn(DeformableAttention(DIM, num_heads=1, num_levels=2, num_points=3))
    sublayer = DeformableSublayer(DIM, attention)
    x, context = torch.randn(2, QUERIES, DIM), context_of()
    weights = sublayer.token_weights(x, context)
    value = attention.value_proj(context.memory.tokens)
    value = value.masked_fill(context.memory.grid.padding_mask[..., None], 0)
    torch.testing.assert_close(
        sublayer.add(x, attention.output_proj(weights @ value)), sublayer(x, context)
    )


def test_dense_attention_is_made_of_its_token_weights(float64):
    sublayer = drawn(DenseAttention(DIM, num_heads=1))
    x, context = torch.randn(2, QUERIES, DIM), context_of()
    weights = sublayer.token_weights(x, context)
    inner = sublayer.attention
    value = F.linear(
        context.memory.tokens, inner.in_proj_weight[2 * DIM :], inner.in_proj_bias[2 * DIM :]
    )
    torch.testing.assert_close(
        sublayer.add(x, inner.out_proj(weights @ value)), sublayer(x, context)
    )


@pytest.mark.parametrize("first", [False, True])
def test_conditional_attention_is_made_of_its_token_weights(float64, first):
    sublayer = drawn(ConditionalAttention(DIM, num_heads=1, first_layer=first))
    x, context = torch.randn(2, QUERIES, DIM), context_of()
    weights = sublayer.token_weights(x, context)
    read = weights @ sublayer.value(context.memory.tokens)
    torch.testing.assert_close(sublayer.close(x, read[:, None]), sublayer(x, context))


def test_token_weights_are_a_mean_over_heads(float64):
    """Of heads that are copies of one, what the one reads."""
    single = drawn(DeformableAttention(DIM, num_heads=1, num_levels=2, num_points=3))
    double = DeformableAttention(DIM, num_heads=2, num_levels=2, num_points=3)
    for name in ("sampling_offsets", "attention_weights"):
        getattr(double, name).weight.data = getattr(single, name).weight.data.repeat(2, 1)
        getattr(double, name).bias.data = getattr(single, name).bias.data.repeat(2)
    x, context = torch.randn(2, QUERIES, DIM), context_of()
    arguments = (x, context.reference, context.memory)
    torch.testing.assert_close(double.token_weights(*arguments), single.token_weights(*arguments))
    dense = drawn(DenseAttention(DIM, num_heads=4))
    torch.testing.assert_close(
        dense.token_weights(x, context).sum(-1), torch.ones(2, QUERIES, dtype=torch.float64)
    )


def planted(tiny, images=1):
    """A model whose queries read nothing but the middle of their references."""
    model, inputs = tiny("demo/ms_detr.py", images=images)
    for layer in model.decoder.layers:
        attention = layer.sublayers["cross_attention"].attention
        for part in (attention.sampling_offsets, attention.attention_weights):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    return model, Sample.of(model, inputs[0])


@pytest.mark.parametrize("top", [None, 1])
def test_planted_attention_is_found(tiny, top):
    model, sample = planted(tiny)
    with torch.no_grad(), watched(model) as calls:
        made = model.forward_tensors(sample.pixels, sample.padding_mask)[OUTPUT]
    if top:
        chosen = [int(made.logits[-1, 0].amax(-1).argmax())]
    else:
        owners = one_to_one(model, made, sample.targets)
        chosen = torch.nonzero(owners < len(sample.boxes))[:, 0].tolist()
        assert len(chosen) == len(sample.boxes)
    height, width = sample.size
    expected = torch.zeros(height, width)
    grid = calls[-1].context.memory.grid
    for level, (h, w) in enumerate(grid.level_shapes):
        columns, rows = (grid.valid_ratios[0, level] * torch.tensor([w, h])).round().int().tolist()
        small = torch.zeros(rows, columns)
        for query in chosen:
            x, y = calls[-1].context.reference[0, query, :2].tolist()
            for r in range(rows):
                for c in range(columns):
                    near = [1 - abs(x * columns - 0.5 - c), 1 - abs(y * rows - 0.5 - r)]
                    small[r, c] += max(near[0], 0) * max(near[1], 0)
        large = F.interpolate(small[None, None], (height, width), mode="bilinear")[0, 0]
        expected += large / large.max() / len(grid.level_shapes)
    found = Attention(top=top).score(model, sample)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["ms_detr", "family/conditional", "family/dab", "family/smca", "family/sam_smca"]
)
def test_some_queries_read_what_they_do_among_all(tiny, name):
    model, (inputs,) = tiny(f"demo/{name}.py", images=1)
    drawn(model.decoder)
    sample, chosen = Sample.of(model, inputs), torch.tensor([7, 2, 19])
    with torch.no_grad(), watched(model) as calls:
        model.forward_tensors(sample.pixels, sample.padding_mask)
        assert len(calls) == 2
        for call in calls:
            every = call.sublayer.token_weights(call.x, call.context)
            assert (every[:, 7] - every[:, 2]).abs().max() > 1e-4
            torch.testing.assert_close(call.token_weights(chosen), every[:, chosen])


def test_layers_and_levels_of_attention(tiny):
    model, (inputs,) = tiny("demo/ms_detr.py", images=1)
    sample = Sample.of(model, inputs)
    last, every = (Attention(all_layers=x).score(model, sample) for x in (False, True))
    assert not torch.equal(last, every)
    finest = Attention(levels=[0]).score(model, sample)
    assert finest.max() == 1
    assert not torch.equal(last, finest)
    assert torch.equal(last, Attention().score(model, sample))


@pytest.mark.parametrize("name", ["detr", "conditional", "smca", "sam", "dab_deformable"])
def test_attention_of_other_hosts(tiny, name):
    model, (inputs,) = tiny(f"demo/family/{name}.py", images=1)
    score = Attention().score(model, Sample.of(model, inputs))
    assert score.shape == inputs["image"].shape[1:]
    assert 0 <= score.min() < score.max() <= 1


def test_an_image_without_objects_has_no_matched_queries(tiny):
    model, (inputs,) = tiny("demo/ms_detr.py", images=1)
    empty = inputs | {"instances": inputs["instances"][:0]}
    assert Attention().score(model, Sample.of(model, empty)) is None
    assert Attention(top=3).score(model, Sample.of(model, empty)) is not None


def test_attention_that_cannot_tell(tiny):
    class Silent(nn.Module):
        def forward(self, x, context):
            return x

    model, (inputs,) = tiny("demo/ms_detr.py", images=1)
    for layer in model.decoder.layers:
        layer.sublayers["cross_attention"] = Silent()
    with pytest.raises(ConfigError, match=r"Silent.*can't tell .*: give it a method token_weights"):
        Attention().score(model, Sample.of(model, inputs))
