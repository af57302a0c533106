import math

import numpy as np
import pytest
import torch

from ms_detr.layers import ConditionalAttention, ConditionalSelfAttention, DenseAttention
from ms_detr.layers.transformer import LayerContext
from ms_detr.structures import Memory

from . import reference
from .reference import below, linear
from .support import make_grid, padded, random, randomise

PADDINGS = [[padded(3, 4, 3, 4)], [padded(3, 4, 2, 3)]]
CHANNELS, HEADS, QUERIES, TOKENS = 8, 2, 5, 12


def context():
    grid = make_grid(PADDINGS)
    return LayerContext(
        position=random(2, QUERIES, CHANNELS, seed=5),
        reference=random(2, QUERIES, 1, 4, seed=6).sigmoid(),
        memory=Memory(random(2, TOKENS, CHANNELS, seed=7), grid, random(2, TOKENS, CHANNELS)),
        spatial=random(2, QUERIES, CHANNELS, seed=8),
    )


def attend(query, key, value, padding=None):
    """Heads and queries one by one: query (Q, heads, n), key (S, heads, n), value (S, heads, m)."""
    seen = [s for s in range(len(key)) if padding is None or not padding[s]]
    out = np.zeros((len(query), HEADS, value.shape[2]))
    for q in range(len(query)):
        for m in range(HEADS):
            scale = math.sqrt(query.shape[2])
            scores = [sum(query[q, m] * key[s, m]) / scale for s in seen]
            for weight, s in zip(reference.softmax(np.array(scores)), seen, strict=True):
                out[q, m] += weight * value[s, m]
    return out.reshape(len(query), -1)


def heads(x):
    return x.reshape(len(x), HEADS, -1)


def dense(params, x, around, b):
    weight, bias = params["attention.in_proj_weight"], params["attention.in_proj_bias"]
    tokens, place = (t[b].numpy() for t in (around.memory.tokens, around.memory.position))
    inputs = x + around.position[b].numpy(), tokens + place, tokens
    parts = [
        heads(y @ weight[k * CHANNELS : (k + 1) * CHANNELS].T + bias[k * CHANNELS :][:CHANNELS])
        for k, y in enumerate(inputs)
    ]
    out = attend(*parts, around.memory.grid.padding_mask[b].numpy())
    return linear(out, below(params, "attention.out_proj"))


def conditional_self(params, x, around, b):
    place = around.position[b].numpy()

    def project(name, y):
        return linear(y, below(params, name))

    query = project("content_query", x) + project("position_query", place)
    key = project("content_key", x) + project("position_key", place)
    out = attend(heads(query), heads(key), heads(project("value", x)))
    return linear(out, below(params, "output"))


def conditional(params, x, around, b):
    """As the paper has it: every head sees content beside place."""
    tokens, place = (t[b].numpy() for t in (around.memory.tokens, around.memory.position))

    def project(name, y):
        return linear(y, below(params, name))

    query, key = project("content_query", x), project("content_key", tokens)
    spatial = project("position_query", around.spatial[b].numpy())
    where = project("position_key", place)
    if "first_query.weight" in params:
        query = query + project("first_query", around.position[b].numpy())
        key = key + where
    out = attend(
        np.concatenate((heads(query), heads(spatial)), 2),
        np.concatenate((heads(key), heads(where)), 2),
        heads(project("value", tokens)),
        around.memory.grid.padding_mask[b].numpy(),
    )
    return linear(out, below(params, "output"))


KINDS = {
    "dense": (DenseAttention, {}, dense),
    "conditional self": (ConditionalSelfAttention, {}, conditional_self),
    "conditional": (ConditionalAttention, {}, conditional),
    "conditional first": (ConditionalAttention, {"first_layer": True}, conditional),
}


def make(kind, dropout=0.0):
    module, options, _ = KINDS[kind]
    return randomise(module(CHANNELS, HEADS, dropout, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_loop(kind):
    module, x, around = make(kind), random(2, QUERIES, CHANNELS, seed=9), context()
    out = module(x, around)
    params = reference.parameters(module)
    for b in range(2):
        update = KINDS[kind][2](params, x[b].numpy(), around, b)
        normed = reference.layer_norm(x[b].numpy() + update, below(params, "norm"))
        np.testing.assert_allclose(out[b].detach(), normed, atol=1e-9)


def test_tokens_attend_to_themselves():
    """The same sublayer in an encoder: queries and keys both have the tokens' position."""
    module, around = make("dense"), context()
    memory = around.memory
    own = LayerContext(memory.position, memory.tokens, memory)
    out = module(memory.tokens, own)
    params = reference.parameters(module)
    for b in range(2):
        x = memory.tokens[b].numpy()
        normed = reference.layer_norm(x + dense(params, x, own, b), below(params, "norm"))
        np.testing.assert_allclose(out[b].detach(), normed, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "self" not in kind])
def test_padding_is_never_read(kind):
    module, x, around = make(kind), random(2, QUERIES, CHANNELS, seed=9), context()
    expected = module(x, around)
    around.memory.tokens[around.memory.grid.padding_mask] = 1e6
    around.memory.position[around.memory.grid.padding_mask] = -1e6
    torch.testing.assert_close(module(x, around), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    module, x, around = make(kind), random(2, 2, CHANNELS, seed=9), context()
    inputs = [x, around.position[:, :2], around.memory.tokens, around.memory.position]
    inputs = [t.clone().requires_grad_() for t in (*inputs, around.spatial[:, :2])]

    def run(x, position, tokens, place, spatial):
        memory = Memory(tokens, around.memory.grid, place)
        return module(x, LayerContext(position, around.reference, memory, spatial=spatial))

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_on_the_attention_weights_and_on_the_branch(kind):
    module, x, around = make(kind, dropout=1.0), random(2, QUERIES, CHANNELS), context()
    evaluated = module.eval()(x, around)
    torch.testing.assert_close(evaluated, make(kind).eval()(x, around))
    module.train()
    torch.testing.assert_close(module(x, around), module.norm(x))
    update = module.output.bias if hasattr(module, "output") else module.attention.out_proj.bias
    # Without the branch's dropout what is left is the output's bias.
    module.dropout.register_forward_hook(lambda _, inputs, out: inputs[0])
    torch.testing.assert_close(module(x, around), module.norm(x + update))


@pytest.mark.parametrize("kind", KINDS)
def test_heads_have_to_divide_the_channels(kind):
    module, options, _ = KINDS[kind]
    with pytest.raises(ValueError, match="embed_dim 8 is not a multiple of num_heads 3"):
        module(8, 3, **options)


def test_the_first_layer_has_one_projection_more():
    def size(**options):
        return sum(p.numel() for p in ConditionalAttention(8, 2, **options).parameters())

    assert size(first_layer=True) - size() == 8 * 9
