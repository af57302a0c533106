from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ms_detr.layers import SelfAttention
from ms_detr.layers.attention import Run, Visibility, attend
from ms_detr.layers.transformer import LayerContext

from . import reference
from .support import random, randomise

HEADS, DIM = 2, 8


@st.composite
def visibilities(draw):
    """Any blocks, each seeing itself and any others."""
    sizes = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=5)))
    sees = tuple(
        tuple(row == column or draw(st.booleans()) for column in range(len(sizes)))
        for row in range(len(sizes))
    )
    return Visibility(sizes, sees)


def slow_mask(visibility):
    block = [index for index, size in enumerate(visibility.sizes) for _ in range(size)]
    return [[visibility.sees[row][column] for column in block] for row in block]


def slow_attention(query, key, value, mask):
    """(Q, d) each: every row over the columns that it sees."""
    out = []
    for row, seen in zip(query, mask, strict=True):
        columns = np.flatnonzero(seen)
        weights = reference.softmax(key[columns] @ row / len(row) ** 0.5)
        out.append(weights @ value[columns])
    return np.stack(out)


@settings(max_examples=60)
@given(visibilities())
def test_blocks_equal_the_loop(visibility):
    mask = slow_mask(visibility)
    assert visibility.mask().tolist() == mask
    queries = len(mask)
    query, key, value = (random(2, HEADS, queries, 3, seed=seed) for seed in range(3))
    out = attend(query, key, value, visibility)
    assert out.shape == query.shape
    for b in range(2):
        for head in range(HEADS):
            inputs = (x[b, head].numpy() for x in (query, key, value))
            expected = slow_attention(*inputs, mask)
            np.testing.assert_allclose(out[b, head], expected, atol=1e-12)


@settings(max_examples=60)
@given(visibilities(), st.integers(0, 1000))
def test_hidden_queries_are_seen_by_themselves_alone(visibility, seed):
    queries = sum(visibility.sizes)
    hidden = np.random.default_rng(seed).random((2, queries)) < 0.4
    visibility = replace(visibility, hidden=torch.from_numpy(hidden))
    query, key, value = (random(2, HEADS, queries, 3, seed=seed) for seed in range(3))
    out = attend(query, key, value, visibility)
    for b in range(2):
        mask = slow_mask(visibility)
        for row, column in np.ndindex(queries, queries):
            mask[row][column] &= row == column or not hidden[b, column]
        for head in range(HEADS):
            inputs = (x[b, head].numpy() for x in (query, key, value))
            expected = slow_attention(*inputs, mask)
            np.testing.assert_allclose(out[b, head], expected, atol=1e-12)


@settings(max_examples=20)
@given(visibilities())
def test_gradients_equal_those_of_the_dense_mask(visibility):
    mask = visibility.mask()
    inputs = [random(2, HEADS, len(mask), 3, seed=seed).requires_grad_() for seed in range(3)]
    weight = random(2, HEADS, len(mask), 3, seed=3)
    dense = nn.functional.scaled_dot_product_attention(*inputs, mask)
    expected = torch.autograd.grad((dense * weight).sum(), inputs)
    found = torch.autograd.grad((attend(*inputs, visibility) * weight).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_equal_blocks_are_one_run():
    group = Visibility.around(3, [(3, False)] * 4)
    assert list(group.runs) == [Run(0, 3, 5, ())]
    denoising = Visibility.around(3, [(2, True)] * 4)
    assert list(denoising.runs) == [Run(0, 3, 1, ()), Run(3, 2, 4, ((0, 3),))]


def test_all_see_all_where_there_are_no_blocks():
    assert Visibility.around(3, []) is None
    assert Visibility.around(3, [(0, True), (0, False)]) is None
    assert Visibility.around(0, [(3, False)]) is None


def test_queries_without_primary_ones():
    """Whether they would see them or not; and of a sole block some may be hidden."""
    for sees in (False, True):
        found = Visibility.around(0, [(2, sees), (1, sees)])
        assert found.sizes == (2, 1) and found.sees == ((True, False), (False, True))
    hidden = torch.tensor([[False, True]])
    assert Visibility.around(0, [(2, False)], hidden).hidden is hidden


@pytest.mark.parametrize(
    ("sizes", "sees", "message"),
    [
        ((1, 2), ((True, True),), "visibility of 2 blocks is 2 rows of 2"),
        ((1, 2), ((True,), (True, True)), "visibility of 2 blocks is 2 rows of 2"),
        ((1, 2), ((True, False), (True, False)), "has to see itself"),
        ((1, 0), ((True, False), (True, True)), r"without queries, got sizes \(1, 0\)"),
    ],
)
def test_what_is_no_visibility(sizes, sees, message):
    with pytest.raises(ValueError, match=message):
        Visibility(sizes, sees)


@pytest.mark.parametrize("visibility", [None, Visibility.around(2, [(2, False), (1, True)])])
def test_parameters_are_those_of_multihead_attention(visibility):
    sublayer = randomise(SelfAttention(DIM, HEADS))
    x, position = random(2, 5, DIM, seed=1), random(2, 5, DIM, seed=2)
    out = sublayer(x, LayerContext(position, None, None, visibility))
    hidden = None if visibility is None else ~visibility.mask()
    query = x + position
    update, _ = sublayer.attention(query, query, x, need_weights=False, attn_mask=hidden)
    torch.testing.assert_close(out, sublayer.norm(x + update))


def test_dropout_in_blocks():
    torch.manual_seed(0)
    query, key = random(1, 1, 40, 2), random(1, 1, 40, 2)
    value = torch.ones(1, 1, 40, 2, dtype=torch.float64)
    visibility = Visibility.around(20, [(10, True), (10, True)])
    out = attend(query, key, value, visibility, dropout=0.5)
    # Weights add up to 1 unless some are dropped and the others doubled.
    assert (out != 1).any(-1).all()
    assert out.mean().item() == pytest.approx(1, abs=0.2)
    assert torch.equal(attend(query, key, value, visibility).round(decimals=12), value)


def test_compiles_to_one_graph():
    sublayer = SelfAttention(DIM, HEADS)
    visibility = Visibility.around(3, [(4, False), (2, True), (2, True)])

    def run(x):
        return sublayer(x, LayerContext(x, None, None, visibility))

    torch._dynamo.reset()
    x = torch.randn(2, 11, DIM)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x))
