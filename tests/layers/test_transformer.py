import math

import numpy as np
import pytest
import torch
from torch import nn

from ms_detr.layers import FFN, MLP, DeformableAttention, DeformableSublayer, SelfAttention
from ms_detr.layers.transformer import LayerContext, init_transformer, stack

from . import reference
from .reference import below
from .support import make_memory, on_levels, padded, random, randomise

PADDINGS = [
    [padded(3, 4, 3, 4), padded(2, 2, 2, 2)],
    [padded(3, 4, 2, 3), padded(2, 2, 1, 2)],
]
CHANNELS, HEADS, POINTS, QUERIES = 8, 2, 3, 5


def context():
    return LayerContext(
        position=random(2, QUERIES, CHANNELS, seed=5),
        reference=random(2, QUERIES, 4, seed=6).sigmoid(),
        memory=make_memory(PADDINGS, CHANNELS, seed=7),
    )


def self_attention(dropout=0.0):
    return randomise(SelfAttention(CHANNELS, HEADS, dropout))


def cross_attention(dropout=0.0):
    attention = DeformableAttention(CHANNELS, HEADS, num_levels=2, num_points=POINTS)
    return randomise(DeformableSublayer(CHANNELS, attention, dropout))


def ffn(dropout=0.0):
    return randomise(FFN(CHANNELS, 12, dropout))


def expected(kind, params, x, context, b):
    """The sublayer's update of image `b`, before residual and norm."""
    x, position = x[b].numpy(), context.position[b].numpy()
    if kind is self_attention:
        return reference.self_attention(below(params, "attention"), x + position, x, HEADS)
    if kind is ffn:
        return reference.feed_forward(x, below(params, "linear1"), below(params, "linear2"))
    return reference.deformable_module(
        below(params, "attention"),
        x + position,
        on_levels(context.reference, PADDINGS)[b],
        context.memory.tokens[b].numpy(),
        context.memory.grid.padding_mask[b].numpy(),
        context.memory.grid.level_shapes,
        HEADS,
        POINTS,
    )


KINDS = [self_attention, cross_attention, ffn]


@pytest.mark.parametrize("kind", KINDS)
def test_sublayer_equals_the_loop(kind):
    """Post-norm: layer norm of the input plus the update; values get no position."""
    module, x, around = kind().eval(), random(2, QUERIES, CHANNELS, seed=8), context()
    out = module(x, around)
    params = reference.parameters(module)
    for b in range(2):
        update = expected(kind, params, x, around, b)
        normed = reference.layer_norm(x[b].numpy() + update, below(params, "norm"))
        np.testing.assert_allclose(out[b].detach(), normed, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_off_in_evaluation(kind):
    module, x, around = kind(dropout=0.5).eval(), random(2, QUERIES, CHANNELS), context()
    assert torch.equal(module(x, around), kind().eval()(x, around))
    module.train()
    assert not torch.equal(module(x, around), module(x, around))


def dropped(module, x, around):
    """(input, output) of every nn.Dropout in the order of the calls, and the module's output."""
    calls = []
    hooks = [
        child.register_forward_hook(lambda _, inputs, out: calls.append((inputs[0], out)))
        for child in module.modules()
        if isinstance(child, nn.Dropout)
    ]
    out = module(x, around)
    for hook in hooks:
        hook.remove()
    return calls, out


@pytest.mark.parametrize("kind", [self_attention, cross_attention])
def test_dropout_on_the_residual_branch(kind):
    torch.manual_seed(0)
    module, x, around = kind(dropout=0.5).train(), random(2, QUERIES, CHANNELS), context()
    if kind is self_attention:
        module.attention.dropout = 0.0
    ((update, kept),), out = dropped(module, x, around)
    params = reference.parameters(module)
    for b in range(2):
        np.testing.assert_allclose(
            update[b].detach(), expected(kind, params, x, around, b), atol=1e-9
        )
    assert ((kept == 0) | (kept == 2 * update)).all()
    assert 0.2 < (kept == 0).double().mean() < 0.8
    torch.testing.assert_close(out, module.norm(x + kept))


def test_dropout_inside_the_ffn_and_on_its_branch():
    torch.manual_seed(0)
    module, x = ffn(dropout=0.5).train(), random(2, QUERIES, CHANNELS)
    ((hidden, kept_hidden), (update, kept)), out = dropped(module, x, None)
    torch.testing.assert_close(hidden, torch.relu(module.linear1(x)))
    assert ((kept_hidden == 0) | (kept_hidden == 2 * hidden)).all()
    assert (kept_hidden != hidden).any()
    torch.testing.assert_close(update, module.linear2(kept_hidden))
    assert ((kept == 0) | (kept == 2 * update)).all()
    assert (kept != update).any()
    torch.testing.assert_close(out, module.norm(x + kept))


def test_dropout_on_the_attention_weights():
    module = self_attention(dropout=1.0).train()
    module.dropout.p = 0.0
    x = random(2, QUERIES, CHANNELS)
    bias = module.attention.out_proj.bias
    torch.testing.assert_close(module(x, context()), module.norm(x + bias))


def test_dropout_is_everywhere_the_same():
    for kind in KINDS:
        module = kind(dropout=0.3)
        rates = {child.p for child in module.modules() if isinstance(child, nn.Dropout)}
        assert rates == {0.3}
    assert self_attention(dropout=0.3).attention.dropout == 0.3


def test_ffn_takes_another_activation():
    module = randomise(FFN(CHANNELS, 12, activation=nn.PReLU()))
    module.activation.weight.data.fill_(0.3)
    x = random(2, QUERIES, CHANNELS)
    hidden = module.linear1(x)
    hidden = torch.where(hidden > 0, hidden, 0.3 * hidden)
    torch.testing.assert_close(module(x), module.norm(x + module.linear2(hidden)))


def test_mlp_has_relu_between_its_layers():
    module = randomise(MLP(3, 5, 2, num_layers=3))
    x = random(4, 3)
    linears = [child for child in module if isinstance(child, nn.Linear)]
    shapes = [(child.in_features, child.out_features) for child in linears]
    assert shapes == [(3, 5), (5, 5), (5, 2)]
    y = x.numpy()
    for i, linear in enumerate(linears):
        y = reference.linear(y, reference.parameters(linear))
        y = np.maximum(y, 0) if i < 2 else y
    np.testing.assert_allclose(module(x).detach(), y, atol=1e-12)


def test_stack_draws_every_layer_anew():
    torch.manual_seed(0)
    attention = DeformableSublayer(32, DeformableAttention(32, 4, 2, 2))
    first, second = stack(nn.ModuleDict({"attention": attention, "ffn": FFN(32, 64)}), 2)
    assert not torch.equal(first["ffn"].linear1.weight, second["ffn"].linear1.weight)
    bound = math.sqrt(6 / (32 + 64))
    for layer in (first, second):
        assert 0.95 * bound < layer["ffn"].linear1.weight.abs().max() <= bound
    fresh = DeformableAttention(32, 4, 2, 2)
    for name in ("sampling_offsets", "attention_weights"):
        for layer in (first, second):
            drawn = getattr(layer["attention"].attention, name)
            assert torch.equal(drawn.weight, getattr(fresh, name).weight)
            assert torch.equal(drawn.bias, getattr(fresh, name).bias)


def test_initialisation_survives_a_second_pass():
    """Xavier on every matrix must not undo deformable attention's own start."""
    module = nn.ModuleList([DeformableAttention(16, 4, 2, 2), nn.Linear(16, 16)])
    ring = module[0].sampling_offsets.bias.clone()
    nn.init.ones_(module[0].sampling_offsets.weight)
    init_transformer(module)
    assert module[0].sampling_offsets.weight.abs().max() == 0
    assert torch.equal(module[0].sampling_offsets.bias, ring)
