"""SMCA: its decoder against the published one's sums, its queries, and what it starts from."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.convert import revert_state_dict
from ms_detr.layers import DenseAttention, IntraScaleAttention, ModulatedAttention
from ms_detr.recipes import deformable_detr, smca, smca_multi_scale
from ms_detr.variants import SMCAInitializer

from ..layers.reference import below, layer_norm, linear, parameters, sigmoid
from ..layers.support import make_memory, padded, random, randomise
from ..modeling.support import ROOT, make_batch, make_model, rooted
from ..test_configs import SMALLER
from .smca_reference import HEADS, Published

SMCA = "configs/smca/smca_r50_300q_50ep.py"
DC5 = "configs/smca/smca_dc5_r50_300q_50ep.py"
MULTI_SCALE = "configs/smca/smca_multi_scale_r50_300q_50ep.py"
DIM, QUERIES = 8, 5
# Heights and widths in pixels: padded, and not in whole cells.
IMAGES = ((70, 134), (101, 75))


def batch():
    """Images and padding mask."""
    height, width = (max(image[axis] for image in IMAGES) for axis in (0, 1))
    mask = torch.from_numpy(np.stack([padded(height, width, *image) for image in IMAGES]))
    images = random(len(IMAGES), 3, height, width, seed=4).masked_fill(mask[:, None], 0.0)
    return images, mask


@pytest.mark.slow
@pytest.mark.parametrize(("config", "stride"), [(SMCA, 32), (DC5, 16)])
def test_the_decoder_equals_the_published_sums(config, stride):
    """Logits and boxes of all layers, and the gradient of every parameter and of the memory."""
    small = (
        "model.decoder.num_layers=3",
        "model.num_queries=6",
        "model.num_classes=5",
        "model.dropout=0.0",
    )
    model = make_model(*SMALLER, *small, config=config)
    assert model.decoder.layers[0].sublayers["cross_attention"].attention.num_heads == HEADS
    for part in (model.decoder, model.query_initializer):
        randomise(part, scale=0.15)
    model.double()
    images, mask = batch()
    with torch.no_grad():
        memory = model.encoder(model.neck(model.backbone(images), mask))
    memory.tokens.requires_grad_()
    queries, _ = model.query_initializer(memory, supervised=True)
    made = model.decoder(queries, memory, supervised=True)["decoder"]
    trained = dict(model.decoder.named_parameters(prefix="decoder"))
    trained |= dict(model.query_initializer.named_parameters(prefix="query_initializer"))
    published = Published(revert_state_dict(trained, "smca-detr"), num_layers=3)
    (shape,) = memory.grid.level_shapes
    assert shape == tuple(-(-pixels // stride) for pixels in mask.shape[1:])
    results = [
        published.decode(
            memory.tokens[b],
            memory.position[b],
            memory.grid.padding_mask[b],
            shape,
            torch.tensor((width, height)).double(),
            stride,
        )
        for b, (height, width) in enumerate(IMAGES)
    ]
    logits, boxes = (torch.stack(part, 1) for part in zip(*results, strict=True))
    torch.testing.assert_close(made.logits, logits, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(made.boxes, boxes, atol=1e-10, rtol=1e-9)

    def gradients(logits, boxes):
        weights = random(*logits.shape, seed=7), random(*boxes.shape, seed=8)
        loss = (logits * weights[0]).sum() + (boxes * weights[1]).sum()
        names = [*trained, "memory"]
        found = torch.autograd.grad(loss, [*trained.values(), memory.tokens])
        return dict(zip(names, found, strict=True))

    expected = gradients(logits, boxes)
    for name, gradient in gradients(made.logits, made.boxes).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-7, msg=name)


def test_centres_come_from_the_positions():
    initializer = randomise(SMCAInitializer(QUERIES, DIM, num_layers=2))
    memory = make_memory([[padded(3, 4, 3, 4)], [padded(3, 4, 2, 3)]], DIM)
    queries, predictions = initializer(memory, supervised=True)
    assert not predictions and not initializer.sources
    assert torch.equal(queries.content, torch.zeros(2, QUERIES, DIM))
    params = parameters(initializer)
    for q in range(QUERIES):
        x = layer_norm(params["position"][q], below(params, "norms.0"))
        for k in (0, 2, 4):
            x = linear(x, below(params, f"center.{k}"))
            x = x if k == 4 else np.maximum(x, 0)
        np.testing.assert_allclose(
            queries.reference[1, q].detach(), [sigmoid(logit) for logit in x], atol=1e-12
        )
    assert queries.reference.requires_grad


def test_every_layer_has_a_norm_of_its_own_for_its_states():
    initializer = randomise(SMCAInitializer(QUERIES, DIM, num_layers=2))
    content, position = random(2, QUERIES, DIM, seed=1), random(2, QUERIES, DIM, seed=2)
    params = parameters(initializer)
    for layer in (0, 1):
        found = initializer.states(layer, content[..., :2], content, position)
        expected = layer_norm((content + position).numpy(), below(params, f"norms.{layer}"))
        np.testing.assert_allclose(found.detach(), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"num_layers is 2, the decoder has more: link it"):
        initializer.states(2, content[..., :2], content, position)


def test_as_many_detections_as_queries():
    assert load(ROOT / SMCA).model.postprocess.top_k == 300
    assert make_model(*SMALLER, config=SMCA).postprocess.top_k == 12


def test_scales_and_the_box_head_start_as_published():
    """Scales of 1, and boxes that the head draws, unlike in the rest of the family."""
    model = make_model(*SMALLER, config=SMCA)
    for layer in model.decoder.layers:
        (gaussians,) = layer.sublayers["cross_attention"].gaussians
        assert (gaussians.scale.weight == 0).all() and (gaussians.scale.bias == 1).all()
    last = model.decoder.box_heads[0][-1]
    assert last.weight.abs().min() > 0 and last.bias.abs().min() > 0
    assert len({id(head) for head in model.decoder.box_heads}) == 1
    zero = make_model(*SMALLER, "model.decoder.box_head.zero=true", config=SMCA)
    assert not zero.decoder.box_heads[0][-1].weight.any()


@pytest.mark.parametrize(
    ("scales", "count"), enumerate((41_513_410, 41_525_746, 41_538_082, 41_550_418))
)
def test_parameters_of_the_published_types(scales, count):
    overrides = (f"model.decoder.layer.cross_attention.scales={scales}", "model.num_classes=92")
    with torch.device("meta"):
        model = instantiate(load(ROOT / SMCA, overrides).model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_the_norms_follow_the_decoders_layers():
    model = make_model(*SMALLER, "model.decoder.num_layers=4", config=SMCA)
    assert len(model.query_initializer.norms) == 4


@pytest.mark.parametrize("scales", range(4))
def test_scales_are_the_recipes_choice(scales):
    for method in (smca, smca_multi_scale):
        with torch.device("meta"):
            model = instantiate(rooted(method(deformable_detr(), scales=scales)))
        for gaussians in model.decoder.layers[1].sublayers["cross_attention"].gaussians:
            learned = 0 if gaussians.scale is None else gaussians.scale.out_features
            assert learned == scales * 4


def test_several_levels():
    """Two layers within levels, one across, two within; strides 16, 32 and 64."""
    with torch.device("meta"):
        model = instantiate(load(ROOT / MULTI_SCALE).model)
    kinds = [type(layer.attention) for layer in model.encoder.layers]
    assert kinds == 2 * [IntraScaleAttention] + [DenseAttention] + 2 * [IntraScaleAttention]
    widths = {layer.ffn.linear1.out_features for layer in model.encoder.layers}
    assert widths == {1024}
    assert len(model.decoder.layers) == 6
    for layer in model.decoder.layers:
        attention = layer.sublayers["cross_attention"]
        assert isinstance(attention, ModulatedAttention) and len(attention.gaussians) == 3


def test_levels_of_a_batch():
    """Shapes by the strides, and every parameter learns."""
    model = make_model(*SMALLER, config=MULTI_SCALE)
    shapes = []
    model.encoder.register_forward_hook(lambda _, inputs, out: shapes.append(out.grid.level_shapes))
    losses = model(make_batch())
    assert shapes == [((5, 6), (3, 3), (2, 2))]
    sum(losses.values()).backward()
    still = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not still


def test_a_middle_needs_an_odd_number_of_layers():
    with pytest.raises(ValueError, match=r"middle_layer needs an odd .*num_layers, got 4"):
        make_model(*SMALLER, "model.encoder.num_layers=4", config=MULTI_SCALE)


def test_levels_have_to_be_those_of_the_neck():
    one = "model.decoder.layer.cross_attention.num_levels=2"
    model = make_model(*SMALLER, one, config=MULTI_SCALE)
    with pytest.raises(ValueError, match="num_levels is 2, but the neck makes 3 levels"):
        model(make_batch())


def test_the_levels_are_linked():
    model = load(ROOT / MULTI_SCALE).model
    attention = OmegaConf.to_container(model, resolve=False)["decoder"]["layer"]["cross_attention"]
    assert attention["num_levels"] == "${model.neck.num_levels}"
