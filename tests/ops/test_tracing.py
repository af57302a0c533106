"""The operator under torch.compile, torch.export, opcheck and autocast."""

import pytest
import torch

from ms_detr.layers import FFN, DeformableAttention, DeformableSublayer, SelfAttention
from ms_detr.layers.transformer import LayerContext
from ms_detr.modeling.decoder_layer import DecoderLayer
from ms_detr.modeling.encoder import EncoderLayer
from ms_detr.ops import deformable_attention, fused_deformable_attention
from ms_detr.structures import Memory, TokenGrid

from .inputs import make, make_fused, needs_compiled

pytestmark = needs_compiled
SHAPES = ((6, 8), (3, 4))
CELLS = 60
DIM = 32


def flat(shapes):
    return [size for shape in shapes for size in shape]


def memory(batch=2):
    padding = torch.zeros(batch, CELLS, dtype=torch.bool)
    padding[:, -2:] = True
    grid = TokenGrid(SHAPES, padding, torch.ones(batch, len(SHAPES), 2))
    return Memory(torch.randn(batch, CELLS, DIM), grid)


def cross_attention():
    torch.manual_seed(0)
    attention = DeformableAttention(DIM, 2, num_levels=2, num_points=3)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.1)
    return DeformableSublayer(DIM, attention)


class Encoding(torch.nn.Module):
    """An encoder layer on tensors alone."""

    def __init__(self):
        super().__init__()
        self.layer = EncoderLayer(cross_attention(), FFN(DIM, 48))

    def forward(self, tokens, padding):
        grid = TokenGrid(SHAPES, padding, torch.ones(len(tokens), 2, 2))
        return self.layer(tokens, torch.zeros_like(tokens), grid.centers(), grid)


class Decoding(torch.nn.Module):
    """A decoder layer on tensors alone."""

    def __init__(self):
        super().__init__()
        self.layer = DecoderLayer(
            ("cross_attention", "self_attention", "ffn"),
            cross_attention=cross_attention(),
            self_attention=SelfAttention(DIM, 2),
            ffn=FFN(DIM, 48),
        )

    def forward(self, queries, boxes, tokens, padding):
        grid = TokenGrid(SHAPES, padding, torch.ones(len(tokens), 2, 2))
        context = LayerContext(torch.zeros_like(queries), boxes, Memory(tokens, grid))
        return self.layer(queries, context)[0]


def encoding():
    image = memory()
    return Encoding(), (image.tokens, image.grid.padding_mask)


def decoding():
    image = memory()
    queries, boxes = torch.randn(2, 5, DIM), torch.rand(2, 5, 4)
    return Decoding(), (queries, boxes, image.tokens, image.grid.padding_mask)


def gradients(module, inputs):
    module.zero_grad()
    out = module(*inputs)
    out.square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", [encoding, decoding])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_layers_are_one_graph(case, dynamic):
    torch._dynamo.reset()
    module, inputs = case()
    expected, expected_grads = gradients(module, inputs)
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    actual, grads = gradients(compiled, inputs)
    torch.testing.assert_close(actual, expected)
    for name, grad in grads.items():
        name = name.removeprefix("_orig_mod.")
        torch.testing.assert_close(grad, expected_grads[name])


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", [encoding, decoding])
def test_inductor(case):
    torch._dynamo.reset()
    module, inputs = case()
    expected, _ = gradients(module, inputs)
    actual, _ = gradients(torch.compile(module, fullgraph=True), inputs)
    torch.testing.assert_close(actual, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", [encoding, decoding])
def test_export(case):
    module, inputs = case()
    program = torch.export.export(module.eval(), inputs)
    targets = {str(node.target) for node in program.graph.nodes}
    assert "ms_detr.fused_deformable_attention.default" in targets
    torch.testing.assert_close(program.module()(*inputs), module(*inputs))


@pytest.mark.parametrize("terms", [0, 2, 4])
def test_opcheck(terms):
    shapes = [(4, 5), (2, 2)]
    inputs = make_fused(shapes, terms) if terms else make(shapes)
    inputs = [x.float() if torch.is_tensor(x) else flat(x) for x in inputs]
    for k in (0, -2, -1):
        inputs[k].requires_grad_()
    name = "fused_deformable_attention" if terms else "deformable_attention"
    torch.library.opcheck(getattr(torch.ops.ms_detr, name).default, inputs)
    backward = getattr(torch.ops.ms_detr, f"{name}_backward").default
    detached = [x.detach() if torch.is_tensor(x) else x for x in inputs]
    torch.library.opcheck(backward, (torch.randn(2, 3, 6), *detached))


def test_wrong_shapes_are_named_under_compile():
    torch._dynamo.reset()
    value, shapes, locations, weights = make([(3, 4), (2, 2)])

    def attend(value, locations, weights):
        return deformable_attention(value, shapes, locations, weights)

    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"attention_weights must be \(2, 3, 2, 2, 2\)"):
        compiled(value, locations, weights[..., :1])
    with pytest.raises(Exception, match="have 16 cells, value has"):
        compiled(value[:, 1:], locations, weights)


def test_references_that_learn_are_checked_under_compile():
    """They take another way, which no fake kernel checks."""
    torch._dynamo.reset()
    value, shapes, references, offsets, logits = make_fused([(3, 4), (2, 2)], 2)

    def attend(references):
        return fused_deformable_attention(value, shapes, references, offsets, logits)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    references.requires_grad_()
    torch.testing.assert_close(compiled(references), attend(references))
    with pytest.raises(Exception, match="reference must be"):
        compiled(references[:, :, :1])


def test_on_meta_tensors():
    value, shapes, locations, weights = (
        x.to("meta") if torch.is_tensor(x) else x for x in make([(3, 4), (2, 2)])
    )
    out = deformable_attention(value, shapes, locations, weights)
    assert out.is_meta and out.shape == (2, 3, 6)


@pytest.mark.parametrize("case", [encoding, decoding])
def test_autocast(case):
    module, inputs = case()
    expected, _ = gradients(module, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual, grads = gradients(module, inputs)
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.1)
    assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in grads.values())
