"""An output norm before the heads, heads that layers share, and a first layer of its own."""

import copy

import pytest
import torch
from torch import nn

from ms_detr.layers import FFN, SelfAttention
from ms_detr.modeling import BoxHead, ClassHead, Decoder, DecoderLayer, Tap, Taps

from ..layers.support import randomise
from .test_decoder import (
    CLASSES,
    CROSS_FIRST,
    DIM,
    HEADS,
    LAYERS,
    compare,
    count_calls,
    make_inputs,
)
from .test_decoder import make as make_plain


def make(twice=True, share=False, epsilon=1e-3, first=None):
    decoder = Decoder(
        copy.deepcopy(make_plain().layers[0]),
        LAYERS,
        ClassHead(DIM, CLASSES),
        BoxHead(DIM),
        look_forward_twice=twice,
        epsilon=epsilon,
        share_heads=share,
        output_norm=nn.LayerNorm(DIM),
        first_layer=first,
    )
    return randomise(decoder, scale=0.4)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_predictions_see_the_norm_and_the_reference_does_not(twice, share):
    compare(make(twice, share), CROSS_FIRST, "cross_attention", epsilon=1e-3)


def test_by_default_there_is_neither():
    decoder = make_plain()
    assert decoder.output_norm is None
    assert not any(name.startswith("output_norm") for name in decoder.state_dict())
    assert len(set(map(id, decoder.box_heads))) == len(set(map(id, decoder.class_heads))) == LAYERS


def test_shared_heads_are_one_and_saved_for_every_layer():
    decoder = make(share=True)
    assert len(set(map(id, decoder.box_heads))) == len(set(map(id, decoder.class_heads))) == 1
    names = {name for name in decoder.state_dict() if name.startswith("class_heads")}
    assert names == {f"class_heads.{i}.{end}" for i in range(LAYERS) for end in ("weight", "bias")}
    assert sum(name.startswith("class_heads") for name, _ in decoder.named_parameters()) == 2


def grad(output, inputs):
    return torch.autograd.grad(output, inputs, retain_graph=True)


@pytest.mark.parametrize("twice", [False, True])
def test_a_box_reaches_the_layer_before_past_the_norm(twice):
    """Through the states without the norm, and the box head before its own."""
    decoder = make(twice)
    raw, normed = [], []
    decoder.output_norm.register_forward_hook(
        lambda _, inputs, out: raw.append(inputs[0]) or normed.append(out)
    )
    boxes = decoder(*make_inputs(), supervised=True)["decoder"].boxes
    # The layer's output and its tap's, in turn.
    raw, normed = raw[::2], normed[::2]
    box = boxes[2, 0, 1, 0]
    reached = [bool(gradient.any()) for gradient in grad(box, normed)]
    assert reached == [False, False, True]
    before, by_bias, _ = (grad(box, [head[-1].bias])[0] for head in decoder.box_heads)
    assert not before.any()
    # d sigmoid(d + logit(b)) / d logit(b), where the logit of b moves as the bias.
    expected = (box * (1 - box)).item() if twice else 0
    assert by_bias[0].item() == pytest.approx(expected, rel=1e-9)
    if not twice:
        return
    # What the states of the layer before gain over plain refinement is the head's derivative there.
    plain, others = make(twice=False), []
    plain.output_norm.register_forward_hook(lambda _, inputs, out: others.append(inputs[0]))
    same = plain(*make_inputs(), supervised=True)["decoder"].boxes[2, 0, 1, 0]
    torch.testing.assert_close(same, box)
    (by_head,) = grad(decoder.box_heads[1](raw[1])[0, 1, 0], [raw[1]])
    gained = grad(box, [raw[1]])[0] - grad(same, [others[2]])[0]
    torch.testing.assert_close(gained, by_head * box * (1 - box))


def test_inference_norms_and_predicts_once():
    decoder = make(twice=True)
    counts = {}
    count_calls(decoder.output_norm, counts, "norm")
    for index in range(LAYERS):
        count_calls(decoder.box_heads[index], counts, f"box {index}")
    alone = decoder(*make_inputs(), supervised=False)["decoder"]
    assert counts == {"norm": 1, "box 0": 1, "box 1": 1, "box 2": 1}
    made = decoder(*make_inputs(), supervised=True)["decoder"]
    assert torch.equal(alone.boxes[0], made.boxes[-1])
    assert torch.equal(alone.logits[0], made.logits[-1])
    assert torch.equal(alone.states[0], made.states[-1])


def other_layer(**taps):
    sublayers = {"self_attention": SelfAttention(DIM, HEADS), "ffn": FFN(DIM, 6)}
    return DecoderLayer(tuple(sublayers), Taps(**taps), **sublayers)


def test_a_first_layer_of_its_own():
    layer = copy.deepcopy(make_plain().layers[0])
    first = other_layer(ffn=Tap())
    with pytest.raises(ValueError, match=r"first_layer has the taps \['ffn'\], the other .*cross"):
        Decoder(layer, 3, ClassHead(DIM, CLASSES), BoxHead(DIM), first_layer=first)
    del layer.taps["cross_attention"]
    first = other_layer()
    decoder = Decoder(layer, 3, ClassHead(DIM, CLASSES), BoxHead(DIM), first_layer=first)
    orders = [each.order for each in decoder.layers]
    assert orders == [("self_attention", "ffn"), CROSS_FIRST, CROSS_FIRST]
    assert decoder.layers[0] is not first
