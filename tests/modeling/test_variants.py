"""Separate heads, and one stage with and without box refinement."""

import numpy as np
import pytest
import torch

from ms_detr.layers import FFN, DeformableAttention, DeformableSublayer, SelfAttention
from ms_detr.layers.boxes import refine
from ms_detr.layers.transformer import LayerContext
from ms_detr.modeling import (
    BoxHead,
    ClassHead,
    Decoder,
    DecoderLayer,
    Heads,
    LearnedInitializer,
    Tap,
    TapHeads,
    Taps,
)

from ..layers.support import make_memory, padded, randomise
from .support import trained_parameters
from .test_decoder import CLASSES, CROSS_FIRST, DIM, HEADS, PADDINGS, POINTS, make_inputs

# Trainable parameters with 91 classes, without stem and res2, as published or computed from it.
REFINED = 40_627_260 + 12 * (2 * 256 + 1) * 1024  # an FFN of 2048 instead of 1024
BACKBONE, LINEAR, NORM, MLP = 23_232_512, 257 * 256, 2 * 256, 2 * 2048 * 256 + 2048 + 256
NARROW = 2 * 1024 * 256 + 1024 + 256
COUNTS = {
    "ms_detr/ms_detr_a_r50_300q_12ep.py": 47_403_195,
    "ms_detr/ms_detr_pp_r50_300q_12ep.py": 53_648_025,
    "ms_detr/ms_detr_pp_r50_900q_12ep.py": 53_801_625,
    # The same parts in another order.
    "ms_detr/ms_detr_b_r50_300q_12ep.py": 47_403_195,
    "ms_detr/ms_detr_d_r50_300q_12ep.py": 53_571_225,
    "deformable_detr/deformable_detr_pp_r50_300q_12ep.py": 47_262_873 + 300 * 256,
    # Anchors, content, MLPs of position and scale instead of position, content and points.
    "dab_detr/dab_deformable_detr_r50_300q_50ep.py": REFINED
    + 300 * (4 + 256)
    + (512 + 1 + 256 + 1 + 256 + 1 + 256 + 1) * 256
    - (300 * 512 + 2 * 257),
    "dino/dino_r50_4scale_12ep.py": 46_670_782,
    # The backbone without stem and res2, its projection, both transformers, 300 queries and heads.
    "conditional_detr/conditional_detr_r50_300q_50ep.py": BACKBONE
    + 2049 * 256
    + 6 * (4 * LINEAR + MLP + 2 * NORM)
    + 6 * (12 * LINEAR + MLP + 3 * NORM)
    + LINEAR  # of the first layer
    + NORM
    + 300 * 256
    + (LINEAR + 2 * 257)  # reference points
    + 2 * LINEAR  # scale of the spatial query
    + (91 * 257 + 2 * LINEAR + 4 * 257),
}
# As published with 92 classes.
COUNTS["smca/smca_r50_300q_50ep.py"] = COUNTS["smca/smca_dc5_r50_300q_50ep.py"] = 41_538_082 - 257
COUNTS["smca/smca_multi_scale_r50_300q_50ep.py"] = (
    BACKBONE
    + (1025 + 9 * 2048 + 1 + 2049 + 3 * 2 + 3) * 256  # projections, norms, embeddings of levels
    + 5 * (4 * LINEAR + NARROW + 2 * NORM)
    + 6 * (8 * LINEAR + NARROW + 4 * NORM)
    + 6 * 3 * (16 + 16 + 1) * 257  # offsets, scales, shares of levels
    + NORM
    + 300 * 256
    + (2 * LINEAR + 2 * 257)  # centres
    + (91 * 257 + 2 * LINEAR + 4 * 257)
)
COUNTS["conditional_detr/conditional_detr_dc5_r50_300q_50ep.py"] = COUNTS[
    "conditional_detr/conditional_detr_r50_300q_50ep.py"
]


@pytest.mark.parametrize("config", COUNTS)
def test_parameter_counts(config):
    assert trained_parameters(config) == COUNTS[config]


def make(tap_heads=None, refinement=True, twice=False, sources=None):
    layer = DecoderLayer(
        CROSS_FIRST,
        Taps(ffn=Tap(), cross_attention=Tap(FFN(DIM, 10))),
        self_attention=SelfAttention(DIM, HEADS),
        cross_attention=DeformableSublayer(DIM, DeformableAttention(DIM, HEADS, 2, POINTS)),
        ffn=FFN(DIM, 12),
    )
    heads = ClassHead(DIM, CLASSES), BoxHead(DIM)
    decoder = Decoder(layer, 3, *heads, tap_heads, refinement, twice, sources=sources)
    return randomise(decoder, scale=0.4)


@pytest.mark.parametrize("own_class", [True, False])
@pytest.mark.parametrize("own_box", [True, False])
def test_heads_of_a_tap(own_class, own_box):
    own = Heads(ClassHead(DIM, CLASSES) if own_class else None, BoxHead(DIM) if own_box else None)
    decoder = make(TapHeads(ffn=own, cross_attention=None))
    made = decoder(*make_inputs(), supervised=True)
    # The tap behind the last sublayer has the output's states.
    same_logits = torch.equal(made["decoder.ffn"].logits, made["decoder"].logits)
    same_boxes = torch.equal(made["decoder.ffn"].boxes, made["decoder"].boxes)
    assert (same_logits, same_boxes) == (not own_class, not own_box)
    shared = make()
    shared.load_state_dict(decoder.state_dict(), strict=False)
    expected = shared(*make_inputs(), supervised=True)
    for source in ("decoder", "decoder.cross_attention"):
        assert torch.equal(made[source].logits, expected[source].logits)
        assert torch.equal(made[source].boxes, expected[source].boxes)
    names = {name.split(".")[0] for name, _ in decoder.named_parameters()}
    assert ("tap_class_heads" in names, "tap_box_heads" in names) == (own_class, own_box)
    unwanted = make(TapHeads(ffn=own), sources={"decoder", "decoder.cross_attention"})
    assert not len(unwanted.tap_class_heads) and not len(unwanted.tap_box_heads)


def test_heads_of_a_tap_that_is_not_there():
    with pytest.raises(ValueError, match=r"no tap 'output', only \['ffn', 'cross_attention'\]"):
        make(TapHeads(output=Heads(ClassHead(DIM, CLASSES))))


def test_without_refinement_every_layer_corrects_the_first_reference():
    decoder = make(refinement=False)
    queries, memory = make_inputs(size=2)
    made = decoder(queries, memory, supervised=True)
    assert len(set(map(id, decoder.box_heads))) == len(set(map(id, decoder.class_heads))) == 1
    states = queries.content
    for index, layer in enumerate(decoder.layers):
        states, _ = layer(states, LayerContext(queries.position, queries.reference, memory))
        boxes = refine(decoder.box_heads[0](states), queries.reference, 1e-5)
        torch.testing.assert_close(made["decoder"].boxes[index], boxes)
        torch.testing.assert_close(made["decoder"].logits[index], decoder.class_heads[0](states))


def test_look_forward_twice_needs_refinement():
    with pytest.raises(ValueError, match="needs box_refinement"):
        make(refinement=False, twice=True)


def test_size_bias_is_of_the_first_head_alone():
    layer = make().layers[0]
    decoder = Decoder(layer, 3, ClassHead(DIM, CLASSES), BoxHead(DIM), size_bias=-2.0)
    biases = [head[-1].bias.tolist() for head in decoder.box_heads]
    assert biases == [[0, 0, -2, -2], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_learned_queries():
    torch.manual_seed(0)
    initializer = LearnedInitializer(5, DIM).double()
    memory = make_memory(PADDINGS, DIM, seed=4)
    queries, predictions = initializer(memory, supervised=True)
    assert not predictions
    assert queries.content.shape == queries.position.shape == (2, 5, DIM)
    logits = initializer.position @ initializer.reference_points.weight.T
    expected = torch.sigmoid(logits + initializer.reference_points.bias)
    torch.testing.assert_close(queries.reference, expected.expand(2, -1, -1))
    assert queries.reference.requires_grad


@pytest.mark.parametrize("refinement", [True, False])
def test_reference_points_learn_by_attention_and_by_boxes(refinement):
    """The loss's derivative by the points' bias, against differences."""
    torch.manual_seed(1)
    initializer = randomise(LearnedInitializer(2, DIM), scale=0.3)
    decoder = make(refinement=refinement)
    memory = make_memory([[padded(3, 4, 3, 4), padded(2, 2, 2, 2)]], DIM, seed=4)
    bias = initializer.reference_points.bias

    def loss():
        queries, _ = initializer(memory, supervised=True)
        made = decoder(queries, memory, supervised=True)["decoder"]
        # Behind the first layer refinement cuts the gradient.
        layers = slice(0, 1) if refinement else slice(None)
        return made.boxes[layers].square().sum() + made.logits[layers].square().sum()

    (gradient,) = torch.autograd.grad(loss(), bias)
    for k in range(2):
        with torch.no_grad():
            step = 1e-6
            bias[k] += step
            above = loss().item()
            bias[k] -= 2 * step
            below = loss().item()
            bias[k] += step
        np.testing.assert_allclose(gradient[k].item(), (above - below) / (2 * step), rtol=1e-4)
