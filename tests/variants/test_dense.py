"""DETR, Conditional DETR and DAB-DETR: queries, and the parts around them."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.layers import MLP, ConditionalAttention, ConditionalSelfAttention
from ms_detr.variants import ConditionalInitializer, DABInitializer, PositionInitializer
from ms_detr.variants.dab import ModulatedQuery
from ms_detr.visualization import draw_sampling

from ..layers.reference import below, parameters, sigmoid, sine_embedding
from ..layers.support import make_memory, padded, random, randomise
from ..layers.test_query_position import mlp
from ..modeling.support import ROOT, make_batch, make_model
from ..test_configs import SMALLER
from ..test_linked_keys import OTHER, OWN, places

DIM, QUERIES = 8, 5
PADDINGS = [[padded(3, 4, 3, 4)], [padded(3, 4, 2, 3)]]
DETR = "configs/detr/detr_r50_100q_50ep.py"
CONDITIONAL = "configs/conditional_detr/conditional_detr_r50_300q_50ep.py"
DAB = "configs/dab_detr/dab_detr_r50_300q_50ep.py"
SMCA = "configs/smca/smca_r50_300q_50ep.py"


def start(kind, **options):
    """The initialiser, and what it starts from."""
    initializer = randomise(kind(QUERIES, DIM, **options))
    queries, predictions = initializer(make_memory(PADDINGS, DIM), supervised=True)
    assert not predictions and not initializer.sources
    assert torch.equal(queries.content, torch.zeros(2, QUERIES, DIM))
    return initializer, queries


def test_detr_starts_from_positions_alone():
    initializer, queries = start(PositionInitializer)
    assert torch.equal(queries.position, initializer.position.expand(2, -1, -1))
    assert queries.spatial is None
    assert (queries.reference == 0.5).all()


def test_detr_predicts_boxes_without_a_reference():
    model = make_model(*SMALLER, config=DETR).eval()
    images, mask = model.preprocess(make_batch())
    calls = []
    model.decoder.box_heads[1].register_forward_hook(lambda *call: calls.append(call[2]))
    with torch.no_grad():
        boxes = model.forward_tensors(images, mask)["decoder"].boxes[-1]
    assert torch.equal(boxes, calls[-1].sigmoid())


def test_conditional_points_come_from_the_positions():
    initializer, queries = start(ConditionalInitializer)
    assert torch.equal(queries.position, initializer.position.expand(2, -1, -1))
    params = parameters(initializer)
    for q in range(QUERIES):
        logits = mlp(below(params, "point"), params["position"][q])
        expected = [sigmoid(x) for x in logits]
        np.testing.assert_allclose(queries.reference[1, q].detach(), expected, atol=1e-12)
    assert queries.spatial is initializer.spatial
    assert queries.reference.requires_grad


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_modulation_equals_the_loop(layer):
    module = randomise(ModulatedQuery(DIM))
    boxes, content = random(2, QUERIES, 4, seed=1).sigmoid(), random(2, QUERIES, DIM, seed=2)
    out = module(layer, boxes, content)
    params = parameters(module)
    for b in range(2):
        for q in range(QUERIES):
            x, y, width, height = boxes[b, q].tolist()
            asked = content[b, q].numpy()
            expected = sine_embedding([y, x], DIM // 2)
            if layer > 0:
                expected = expected * mlp(below(params, "scale.mlp"), asked)
            wanted_width, wanted_height = mlp(below(params, "size"), asked)
            expected[: DIM // 2] *= sigmoid(wanted_height) / height
            expected[DIM // 2 :] *= sigmoid(wanted_width) / width
            np.testing.assert_allclose(out[b, q].detach(), expected, atol=1e-12)


def test_boxes_without_area_modulate_finitely():
    module = ModulatedQuery(DIM)
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 1e-30, 1.0]]], requires_grad=True)
    out = module(1, boxes, torch.randn(1, 2, DIM))
    out.square().sum().backward()
    assert out.isfinite().all() and boxes.grad.isfinite().all()


@pytest.mark.parametrize("fixed", [False, True])
def test_dab_starts_from_anchors(fixed):
    initializer, queries = start(DABInitializer, fixed_centers=fixed)
    assert torch.equal(queries.reference, initializer.anchors(2))
    assert queries.position is initializer.position and queries.spatial is initializer.spatial
    assert initializer.position.scale is None
    trained = {name for name, _ in initializer.named_parameters() if name.startswith("anchors")}
    assert trained == {"anchors.sizes"} | (set() if fixed else {"anchors.centers"})


@pytest.mark.parametrize("config", [CONDITIONAL, DAB])
def test_only_the_first_layer_adds_positions_to_contents(config):
    with torch.device("meta"):
        decoder = instantiate(load(ROOT / config).model).decoder
    attentions = [layer.sublayers["cross_attention"] for layer in decoder.layers]
    assert all(isinstance(attention, ConditionalAttention) for attention in attentions)
    assert [attention.first_query is not None for attention in attentions] == [True] + 5 * [False]
    kinds = {type(layer.sublayers["self_attention"]) for layer in decoder.layers}
    assert kinds == {ConditionalSelfAttention}


def test_layers_share_what_they_share():
    """One scale of the positions, one box head and one norm for all layers."""
    with torch.device("meta"):
        model = instantiate(load(ROOT / DAB).model)
    names = [name for name, _ in model.named_parameters()]
    scale = [name for name in names if name.startswith("encoder.position_scale")]
    assert len(scale) == 4 and isinstance(model.encoder.position_scale, MLP)
    assert len([name for name in names if name.startswith("decoder.box_heads")]) == 6
    activations = [name for name in names if name.endswith("ffn.activation.weight")]
    assert len(activations) == 12


@pytest.mark.parametrize(
    ("config", "key", "path"),
    [
        (config, key, path)
        for config in (DETR, DAB)
        for key in OTHER
        if key not in OWN
        for path in places(key, config)
    ],
)
def test_a_part_that_differs_from_the_models_key(config, key, path):
    with pytest.raises(ValueError, match=rf"model\.{key}\b"), torch.device("meta"):
        instantiate(load(ROOT / config, [f"{path}={OTHER[key]}"]).model)


@pytest.mark.parametrize("config", [DETR, DAB])
@pytest.mark.parametrize("key", OWN)
def test_a_part_may_have_its_own(config, key):
    """Any one of them, but not all: the model's own value would be nobody's."""
    paths = places(key, config)
    with torch.device("meta"):
        for path in paths:
            instantiate(load(ROOT / config, [f"{path}={OTHER[key]}"]).model)
        message = rf"model\.{key} is .*, but nothing was built with it, only with \[{OTHER[key]}\]"
        with pytest.raises(ValueError, match=message):
            instantiate(load(ROOT / config, [f"{path}={OTHER[key]}" for path in paths]).model)


def test_a_feedforward_network_of_its_own_width():
    override = "model.decoder.layer.ffn.feedforward_dim=1024"
    with torch.device("meta"):
        model = instantiate(load(ROOT / DETR, [override]).model)
    assert model.decoder.layers[0].sublayers["ffn"].linear1.out_features == 1024
    assert model.encoder.layers[0].ffn.linear1.out_features == 2048


def test_sampling_points_need_deformable_attention(tmp_path):
    with torch.device("meta"):
        model = instantiate(load(ROOT / DAB).model)
    with pytest.raises(ValueError, match=r"deformable cross-attention.* has ConditionalAttention"):
        draw_sampling(model, None, tmp_path)


@pytest.mark.parametrize("config", [DETR, CONDITIONAL, DAB, SMCA])
def test_padding_changes_nothing(config):
    """An image predicts the same alone and beside a larger one."""
    model = make_model(*SMALLER, config=config).double().eval()
    small, large = torch.randn(1, 3, 64, 96).double(), torch.randn(1, 3, 128, 160).double()
    batch = torch.zeros(2, 3, 128, 160).double()
    batch[0, :, :64, :96], batch[1] = small, large
    mask = torch.ones(2, 128, 160, dtype=torch.bool)
    mask[0, :64, :96], mask[1] = False, False
    with torch.no_grad():
        # The backbone reads across the border: its map is made as it is without padding.
        alone = model.backbone(small)["res5"]
        whole = model.backbone(large)["res5"]
        joined = torch.zeros(2, *whole.shape[1:]).double()
        joined[0, :, : alone.shape[2], : alone.shape[3]], joined[1] = alone[0], whole[0]

        def predict(features, padding):
            memory = model.encoder(model.neck({"res5": features}, padding))
            queries, _ = model.query_initializer(memory, False)
            return model.decoder(queries, memory, False)["decoder"]

        expected = predict(alone, mask[:1, :64, :96])
        found = predict(joined, mask)
    torch.testing.assert_close(found.boxes[:, :1], expected.boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logits[:, :1], expected.logits, atol=1e-4, rtol=0)
