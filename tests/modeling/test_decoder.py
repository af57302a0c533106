import numpy as np
import pytest
import torch

from ms_detr.layers import FFN, DeformableAttention, DeformableSublayer, SelfAttention
from ms_detr.modeling import BoxHead, ClassHead, Decoder, DecoderLayer, Tap, Taps
from ms_detr.structures import Queries, Source

from ..layers.reference import parameters, refine
from ..layers.support import make_memory, padded, random, randomise
from . import reference

DIM, HEADS, POINTS, LAYERS, CLASSES, QUERIES = 8, 2, 3, 3, 4, 5
PADDINGS = [
    [padded(3, 4, 3, 4), padded(2, 2, 2, 2)],
    [padded(3, 4, 2, 3), padded(2, 2, 1, 2)],
]
SELF_FIRST = ("self_attention", "cross_attention", "ffn")
CROSS_FIRST = ("cross_attention", "self_attention", "ffn")
# MS-DETR, arXiv:2401.03989, Fig. 4: order and where the one-to-many queries are tapped.
VARIANTS = {
    "a": (SELF_FIRST, None),
    "b": (CROSS_FIRST, None),
    "c": (CROSS_FIRST, "cross_attention"),
    "d": (SELF_FIRST, "self_attention"),
}


def make(
    order=CROSS_FIRST,
    tap="cross_attention",
    tap_ffn=True,
    twice=False,
    epsilon=1e-5,
    sources=None,
):
    taps = {tap: Tap(FFN(DIM, 10) if tap_ffn else None)} if tap else {}
    layer = DecoderLayer(
        order,
        Taps(**taps),
        self_attention=SelfAttention(DIM, HEADS),
        cross_attention=DeformableSublayer(DIM, DeformableAttention(DIM, HEADS, 2, POINTS)),
        ffn=FFN(DIM, 12),
    )
    heads = ClassHead(DIM, CLASSES), BoxHead(DIM)
    decoder = Decoder(
        layer, LAYERS, *heads, look_forward_twice=twice, epsilon=epsilon, sources=sources
    )
    return randomise(decoder, scale=0.4)


def make_queries(size=4):
    places = random(2, QUERIES, size, seed=3).sigmoid()
    places[0, 0] = 1.0  # what comes from an invalid anchor
    return Queries(random(2, QUERIES, DIM, seed=1), random(2, QUERIES, DIM, seed=2), places)


def make_inputs(size=4):
    return make_queries(size), make_memory(PADDINGS, DIM, seed=4)


def compare(decoder, order, tap, epsilon=1e-5, size=4):
    queries, memory = make_inputs(size)
    made = decoder(queries, memory, supervised=True)
    taps = [tap] if tap else []
    for b, levels in enumerate(PADDINGS):
        start = [x[b].numpy() for x in (queries.content, queries.position, queries.reference)]
        expected = reference.decode(
            parameters(decoder),
            start,
            memory.tokens[b].numpy(),
            levels,
            order,
            taps,
            HEADS,
            POINTS,
            epsilon,
        )
        assert set(map(str, made)) == set(expected)
        for source, (logits, boxes) in expected.items():
            assert made[source].layered
            np.testing.assert_allclose(made[source].logits[:, b].detach(), logits, atol=1e-8)
            np.testing.assert_allclose(made[source].boxes[:, b].detach(), boxes, atol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tap_ffn", [True, False])
def test_variants_equal_the_loop(variant, tap_ffn):
    order, tap = VARIANTS[variant]
    compare(make(order, tap, tap_ffn), order, tap)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_values_with_and_without_look_forward_twice(twice, epsilon):
    decoder = make(twice=twice, epsilon=epsilon)
    compare(decoder, CROSS_FIRST, "cross_attention", epsilon)


def test_points_become_boxes_after_the_first_layer():
    compare(make(), CROSS_FIRST, "cross_attention", size=2)


def test_several_taps():
    layer = make().layers[0]
    layer.taps["ffn"] = Tap()
    layer.taps["self_attention"] = Tap()
    decoder = Decoder(layer, 2, ClassHead(DIM, CLASSES), BoxHead(DIM)).double()
    made = decoder(*make_inputs(), supervised=True)
    assert set(made) == decoder.tapped | {Source("decoder")}
    assert set(map(str, decoder.tapped)) == {f"decoder.{name}" for name in CROSS_FIRST}
    # A bare tap behind the last sublayer hands out the layer's output itself.
    assert torch.equal(made["decoder.ffn"].logits, made["decoder"].logits)
    assert torch.equal(made["decoder.ffn"].boxes, made["decoder"].boxes)


def reached(decoder, loss):
    """Box heads and class heads, layers' self-attention and taps that a loss trains."""
    decoder.zero_grad()
    loss.backward(retain_graph=True)
    names = set()
    for name, parameter in decoder.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            kind, index, *rest = name.split(".")
            if kind in ("box_heads", "class_heads"):
                names.add(f"{kind}.{index}")
            elif rest[0] == "taps" or rest[1] == "self_attention":
                names.add(f"{index}.{rest[0] if rest[0] == 'taps' else rest[1]}")
    return names


def box_heads(*layers):
    return {f"box_heads.{layer}" for layer in layers}


def decoder_part(last, tap):
    """Self-attentions up to and including `last`, and the tap of the layer behind it or None."""
    names = {f"{layer}.self_attention" for layer in range(last + 1)}
    return names | ({f"{tap}.taps"} if tap is not None else set())


def test_gradients_of_boxes():
    """Every layer's references are constants: a box trains the head of its own layer."""
    decoder = make()
    made = decoder(*make_inputs(), supervised=True)
    for layer in range(LAYERS):
        o2o = reached(decoder, made["decoder"].boxes[layer].square().sum())
        assert o2o == box_heads(layer) | decoder_part(layer, tap=None)
        o2m = reached(decoder, made["decoder.cross_attention"].boxes[layer].square().sum())
        assert o2m == box_heads(layer) | decoder_part(layer - 1, tap=layer)


def test_gradients_of_boxes_that_look_forward_twice():
    """One-to-one and one-to-many boxes train the head before theirs too, through its o2o output."""
    decoder = make(twice=True)
    made = decoder(*make_inputs(), supervised=True)
    for layer in range(LAYERS):
        heads = box_heads(*range(max(layer - 1, 0), layer + 1))
        o2o = reached(decoder, made["decoder"].boxes[layer].square().sum())
        assert o2o == heads | decoder_part(layer, tap=None)
        o2m = reached(decoder, made["decoder.cross_attention"].boxes[layer].square().sum())
        assert o2m == heads | decoder_part(layer - 1, tap=layer)


@pytest.mark.parametrize("twice", [False, True])
def test_gradients_of_logits(twice):
    """Classes never train a box head: references are constants for the attention."""
    decoder = make(twice=twice)
    made = decoder(*make_inputs(), supervised=True)
    for layer in range(LAYERS):
        o2o = reached(decoder, made["decoder"].logits[layer].square().sum())
        assert o2o == {f"class_heads.{layer}"} | decoder_part(layer, tap=None)
        o2m = reached(decoder, made["decoder.cross_attention"].logits[layer].square().sum())
        assert o2m == {f"class_heads.{layer}"} | decoder_part(layer - 1, tap=layer)


@pytest.mark.parametrize("twice", [False, True])
def test_gradient_through_the_reference(twice):
    """Its size: with look forward twice b2 depends on head 1 as sigmoid(d2 + logit(b1)) does."""
    decoder = make(twice=twice)
    made = decoder(*make_inputs(), supervised=True)
    bias = decoder.box_heads[1][4].bias
    boxes = made["decoder"].boxes
    (gradient,) = torch.autograd.grad(boxes[2, 0, 1, 0], bias)
    if not twice:
        assert gradient.abs().max() == 0
        return
    final = boxes[2, 0, 1, 0].item()
    # d sigmoid(d + logit(b)) / d logit(b) = final (1 - final), and logit(b) moves as the bias.
    assert gradient[0].item() == pytest.approx(final * (1 - final), rel=1e-9)
    assert gradient[1:].abs().max() == 0


@pytest.mark.parametrize("twice", [False, True])
def test_inference_equals_the_last_supervised_layer(twice):
    decoder = make(twice=twice)
    inputs = make_inputs()
    alone = decoder(*inputs, supervised=False)
    made = decoder(*inputs, supervised=True)
    assert set(map(str, alone)) == {"decoder"}
    assert alone["decoder"].logits.shape == (1, 2, QUERIES, CLASSES)
    assert torch.equal(alone["decoder"].logits[0], made["decoder"].logits[-1])
    assert torch.equal(alone["decoder"].boxes[0], made["decoder"].boxes[-1])


def count_calls(module, counts, name):
    module.register_forward_hook(lambda *_: counts.update({name: counts.get(name, 0) + 1}))


def test_inference_does_what_the_baseline_does():
    """No tap, no class head but the last, every box head once."""
    decoder = make()
    counts = {}
    for index, layer in enumerate(decoder.layers):
        count_calls(layer.taps["cross_attention"], counts, "tap")
        count_calls(layer.taps["cross_attention"].ffn, counts, "tap ffn")
        count_calls(decoder.class_heads[index], counts, f"class {index}")
        count_calls(decoder.box_heads[index], counts, f"box {index}")
    decoder(*make_inputs(), supervised=False)
    assert counts == {"class 2": 1, "box 0": 1, "box 1": 1, "box 2": 1}
    counts.clear()
    decoder(*make_inputs(), supervised=True)
    assert counts == {
        "tap": 3,
        "tap ffn": 3,
        **{f"{head} {index}": 2 for head in ("class", "box") for index in range(3)},
    }


def test_taps_that_nobody_wants_are_left_out():
    decoder = make()
    same = make(sources={"decoder", "encoder"})
    same.load_state_dict(decoder.state_dict(), strict=False)
    assert set(map(str, decoder.tapped)) == {"decoder.cross_attention"}
    assert same.tapped == set()
    assert not any(".taps." in name for name in same.state_dict())
    before, after = (x(*make_inputs(), supervised=True)["decoder"] for x in (decoder, same))
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.boxes, after.boxes)
    assert make(sources={"decoder.cross_attention"}).tapped == decoder.tapped


def test_position_may_be_computed_in_every_layer():
    queries, memory = make_inputs()
    decoder = make()
    expected = decoder(queries, memory, supervised=True)["decoder"]
    calls = []

    def position(layer, place, content):
        calls.append((layer, place, content))
        return queries.position

    moving = Queries(queries.content, position, queries.reference)
    made = decoder(moving, memory, supervised=True)["decoder"]
    assert torch.equal(made.boxes, expected.boxes)
    assert [layer for layer, _, _ in calls] == [0, 1, 2]
    assert torch.equal(calls[0][1], queries.reference)
    assert torch.equal(calls[0][2], queries.content)
    for layer in (1, 2):
        torch.testing.assert_close(calls[layer][1], made.boxes[layer - 1].detach())
        assert not calls[layer][1].requires_grad


def test_an_untrained_decoder_keeps_the_references():
    decoder = make()
    for head in decoder.box_heads:
        head[4].weight.data.zero_()
        head[4].bias.data.zero_()
    queries, memory = make_inputs()
    made = decoder(queries, memory, supervised=True)
    expected = [[refine([0] * 4, box) for box in image] for image in queries.reference.tolist()]
    for source in made.values():
        for boxes in source.boxes:
            np.testing.assert_allclose(boxes.detach(), expected, atol=1e-9)


def test_heads_of_the_layers_start_alike_and_are_not_shared():
    decoder = Decoder(make().layers[0], 3, ClassHead(DIM, CLASSES), BoxHead(DIM))
    for heads in (decoder.class_heads, decoder.box_heads):
        states = [head.state_dict() for head in heads]
        for name in states[0]:
            assert torch.equal(states[0][name], states[1][name])
            assert states[0][name].data_ptr() != states[1][name].data_ptr()


def sublayers():
    return {
        "self_attention": SelfAttention(DIM, HEADS),
        "ffn": FFN(DIM, 12),
    }


@pytest.mark.parametrize(
    "order", [("self_attention",), ("self_attention", "ffn", "ffn"), ("self_attention", "mlp"), ()]
)
def test_order_must_name_every_sublayer_once(order):
    with pytest.raises(ValueError, match=r"model\.decoder\.layer\.order .*must name each"):
        DecoderLayer(order, **sublayers())


def test_order_may_come_from_a_config():
    layer = DecoderLayer(["ffn", "self_attention"], **sublayers())
    assert layer.order == ("ffn", "self_attention")
    assert not layer.taps


def test_a_tap_needs_its_sublayer():
    with pytest.raises(ValueError, match=r"taps: no sublayer \['cross_attention'\] to tap"):
        DecoderLayer(("ffn", "self_attention"), Taps(cross_attention=Tap()), **sublayers())


def test_none_stands_for_no_tap():
    assert set(Taps(ffn=None, self_attention=Tap())) == {"self_attention"}
