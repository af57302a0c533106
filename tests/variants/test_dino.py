import math

import numpy as np
import pytest
import torch

from ms_detr.modeling import BoxHead, ClassHead
from ms_detr.variants import DINOInitializer

from ..layers.reference import below, layer_norm, linear, parameters
from ..layers.support import make_memory, randomise
from ..modeling import reference
from ..modeling.test_decoder import CROSS_FIRST, PADDINGS, SELF_FIRST
from ..modeling.test_decoder_norm import make as make_decoder
from .support import decode

DIM, CLASSES, QUERIES = 8, 3, 5


def make(num_queries=QUERIES):
    initializer = DINOInitializer(num_queries, DIM, ClassHead(DIM, CLASSES), BoxHead(DIM))
    randomise(initializer)
    # So that different classes win.
    torch.nn.init.zeros_(initializer.token_norm.bias)
    torch.nn.init.zeros_(initializer.class_head.bias)
    return initializer


def select(params, memory, levels, count):
    """Logits, boxes and anchors of the chosen tokens of one image."""
    anchors, valid = reference.proposals(levels)
    tokens = linear(np.where(valid[:, None], memory, 0.0), below(params, "token_projection"))
    tokens = layer_norm(tokens, below(params, "token_norm"))
    logits = linear(tokens, below(params, "class_head"))
    best = [max(row) for row in logits]
    chosen = sorted(range(len(tokens)), key=lambda s: -best[s])[:count]
    boxes = reference.box_head(below(params, "box_head"), tokens) + anchors
    return (
        logits[chosen],
        reference.from_infinite(boxes[chosen]),
        reference.from_infinite(anchors[chosen]),
    )


@pytest.mark.parametrize("supervised", [False, True])
def test_selection_equals_the_loop(supervised):
    """By the best class of a token, whichever it is."""
    initializer = make()
    memory = make_memory(PADDINGS, DIM, seed=1)
    queries, predictions = initializer(memory, supervised)
    assert set(map(str, predictions)) == ({"encoder"} if supervised else set())
    winners = set()
    for b, levels in enumerate(PADDINGS):
        logits, boxes, anchors = select(
            parameters(initializer), memory.tokens[b].numpy(), levels, QUERIES
        )
        winners |= set(logits.argmax(1))
        np.testing.assert_allclose(queries.reference[b], boxes, atol=1e-9)
        assert torch.equal(queries.content[b], initializer.content)
        if supervised:
            made = predictions["encoder"]
            np.testing.assert_allclose(made.logits[0, b].detach(), logits, atol=1e-9)
            np.testing.assert_allclose(made.boxes[0, b].detach(), boxes, atol=1e-9)
            np.testing.assert_allclose(made.anchors[b], anchors, atol=1e-9)
    assert len(winners) > 1, "one class decides alone"
    if supervised:
        assert not made.layered and made.logits.shape == (1, 2, QUERIES, CLASSES)


def test_predictions_have_a_gradient_and_references_none():
    initializer = make()
    memory = make_memory(PADDINGS, DIM, seed=1)
    memory.tokens.requires_grad_()
    queries, predictions = initializer(memory, supervised=True)
    assert not queries.reference.requires_grad
    made = predictions["encoder"]
    (made.boxes.square().sum() + made.logits.square().sum()).backward()
    trained = {n.split(".")[0] for n, p in initializer.named_parameters() if p.grad is not None}
    assert trained == {"token_projection", "token_norm", "class_head", "box_head"}
    read = (memory.tokens.grad.abs().sum(-1) > 0).sum(1)
    assert (read > 0).all() and (read <= QUERIES).all()


def test_fewer_tokens_than_queries():
    initializer = make(num_queries=50)
    memory = make_memory(PADDINGS, DIM)
    queries, predictions = initializer(memory, supervised=True)
    tokens = memory.tokens.shape[1]
    assert queries.content.shape == (2, tokens, DIM)
    assert queries.reference.shape == (2, tokens, 4)
    assert predictions["encoder"].logits.shape == (1, 2, tokens, CLASSES)


@pytest.mark.parametrize("order", [SELF_FIRST, CROSS_FIRST])
def test_decoded_as_in_the_loop(order):
    """Moving position, norm before the heads, one head for all layers, look forward twice."""
    initializer = make()
    memory = make_memory(PADDINGS, DIM, seed=1)
    decoder = make_decoder(twice=True, share=True)
    for layer in decoder.layers:
        layer.order = order
    with torch.no_grad():
        queries, _ = initializer(memory, supervised=True)
        made = decoder(queries, memory, supervised=True)
    for b in range(2):
        taps = ("cross_attention",)
        expected = decode(decoder, initializer.position, queries, memory, b, order, taps)
        assert set(map(str, made)) == set(expected)
        for source, (logits, boxes) in expected.items():
            np.testing.assert_allclose(made[source].logits[:, b], logits, atol=1e-8)
            np.testing.assert_allclose(made[source].boxes[:, b], boxes, atol=1e-8)


def test_start():
    torch.manual_seed(0)
    initializer = DINOInitializer(300, 64, ClassHead(64, 5), BoxHead(64))
    for matrix in (initializer.content, initializer.token_projection.weight):
        bound = math.sqrt(6 / sum(matrix.shape))
        assert 0.98 * bound < matrix.abs().max() <= bound
