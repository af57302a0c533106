"""SAM-DETR: its queries, its decoder against plain loops, and the parts around them."""

from dataclasses import replace

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.layers import SAMPositionEncoding
from ms_detr.layers.query_position import center_position
from ms_detr.recipes import (
    contrastive_denoising,
    deformable_detr,
    gaussian_modulation,
    group,
    ms_detr,
    sam_detr,
    sam_detr_multi_scale,
    smca,
    with_masks,
)
from ms_detr.structures import GroupQueries, Memory
from ms_detr.variants import BoxInitializer

from ..layers.aligned_reference import sine
from ..layers.support import make_grid, make_memory, padded, random, randomise
from ..modeling.support import ROOT, make_batch, make_model, rooted, trained_parameters
from ..test_configs import SMALLER
from .slow_sam import decode, inverse_sigmoid

DIM, HEADS, QUERIES = 8, 2, 4
LEVELS = {
    "one": ([padded(3, 4, 3, 4)], [padded(3, 4, 2, 3)]),
    "several": (
        [padded(4, 5, 4, 5), padded(2, 3, 2, 3), padded(1, 2, 1, 2)],
        [padded(4, 5, 3, 3), padded(2, 3, 2, 2), padded(1, 2, 1, 1)],
    ),
}
TINY = (
    f"model.embed_dim={DIM}",
    f"model.num_heads={HEADS}",
    "model.feedforward_dim=12",
    "model.num_classes=3",
    "model.decoder.num_layers=3",
)
# The counts of the published models; DC5 has no others.
PARAMETERS = {
    "sam_detr_r50_300q_12ep": 58_074_058,
    "sam_detr_smca_r50_300q_12ep": 58_123_306,
    "sam_detr_r50_300q_50ep": 58_073_546,
    "sam_detr_smca_r50_300q_50ep": 58_122_794,
    "sam_detr_multi_scale_r50_300q_12ep": 54_972_298,
    "sam_detr_smca_multi_scale_r50_300q_50ep": 55_021_546,
    "sam_detr_dc5_r50_300q_12ep": 58_074_058,
    "sam_detr_smca_dc5_r50_300q_50ep": 58_122_794,
}


@pytest.mark.parametrize("config", PARAMETERS)
def test_as_many_parameters_as_published(config):
    assert trained_parameters(f"sam_detr/{config}.py") == PARAMETERS[config]


def make_decoder(levels, modulated):
    """As the recipes compose it, but small."""
    several = levels == "several"
    model = (sam_detr_multi_scale if several else sam_detr)(deformable_detr())
    if modulated:
        gaussian_modulation(model)
    overrides = (*TINY, *(["model.decoder.levels=[2,1,0]"] if several else []))
    return randomise(instantiate(rooted(model, overrides).decoder), scale=0.25).eval()


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("levels", LEVELS)
def test_decoder_equals_the_loop_and_so_do_its_gradients(levels, modulated):
    """Boxes go beyond the bounds of the predictions' clamp and come back."""
    decoder = make_decoder(levels, modulated)
    initializer = randomise(BoxInitializer(QUERIES, DIM), seed=1)
    with torch.no_grad():
        initializer.boxes[0] = torch.tensor([12.5, -13.0, 0.5, 14.0])
        for head, sign in zip(decoder.box_heads, (1, -1, 1), strict=True):
            head[-1].bias[:] = sign * torch.tensor([1.0, -1.0, 0.0, 8.0])
    grid = make_grid(LEVELS[levels])
    shape = (*grid.padding_mask.shape, DIM)
    tokens, places = (random(*shape, seed=seed).requires_grad_() for seed in (2, 3))
    memory = Memory(tokens, grid, places)
    queries, _ = initializer(memory, supervised=True)
    found = decoder(queries, memory, supervised=True)["decoder"]
    slow = []
    for b, paddings in enumerate(LEVELS[levels]):
        parts = (x[b].split(grid.level_sizes) for x in (tokens, places))
        maps = list(zip(*parts, paddings, strict=True))
        order = (2, 1, 0) if levels == "several" else (0, 0, 0)
        smoothing = 8.0 if modulated else None
        params = dict(decoder.named_parameters())
        slow.append(decode(params, initializer.boxes, maps, order, HEADS, smoothing))
    logits, boxes = (torch.stack(part, 1) for part in zip(*slow, strict=True))
    torch.testing.assert_close(found.logits, logits, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.boxes, boxes, atol=1e-9, rtol=1e-9)

    def loss(logits, boxes):
        return sum((x * random(*x.shape, seed=4)).sum() for x in (logits, boxes))

    learned = {"boxes": initializer.boxes, "tokens": tokens, "places": places}
    learned |= dict(decoder.named_parameters())
    ours, theirs = (
        torch.autograd.grad(loss(*made), list(learned.values()))
        for made in ((found.logits, found.boxes), (logits, boxes))
    )
    for name, one, other in zip(learned, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_keep_their_digits_from_layer_to_layer(dtype):
    """From far out, where a box in single precision no longer tells its logit."""
    steps = (-16.0, 0.5, 0.0)
    decoder, initializer = make_decoder("one", False).to(dtype), BoxInitializer(2, DIM).to(dtype)
    with torch.no_grad():
        initializer.boxes.copy_(torch.tensor([[9.0, -9.0, 14.0, 18.0], [0.5, 18.0, -18.0, 1.0]]))
        for head, step in zip(decoder.box_heads, steps, strict=True):
            head[-1].weight.zero_()
            head[-1].bias.fill_(step)
    memory = make_memory(LEVELS["one"], DIM)
    grid = replace(memory.grid, valid_ratios=memory.grid.valid_ratios.to(dtype))
    tokens = memory.tokens.to(dtype)
    memory = Memory(tokens, grid, torch.zeros_like(tokens))
    queries, _ = initializer(memory, supervised=True)
    other = torch.tensor([0.25, 0.5, 0.125, 0.75], dtype=dtype).expand(2, 1, 4)
    group = GroupQueries(queries.at(queries.content[:, :1], other), (1,))
    made = decoder(queries, memory, supervised=True, groups={"other": group})
    starts = {"decoder": initializer.boxes.double(), "other.decoder": other[0].double().logit()}
    for source, chain in starts.items():
        for index, step in enumerate(steps):
            expected = (inverse_sigmoid(chain.sigmoid()) + step).sigmoid()
            found = made[source].boxes[index, 1].double()
            torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
            chain = chain + step
    joined = queries.join([group.queries])
    assert torch.equal(joined.part(0, 2).logits, queries.logits)
    torch.testing.assert_close(joined.part(2, 3).logits, other.logit())
    assert group.queries.join([group.queries]).logits is None


def test_logits_of_boxes_need_boxes():
    config = "configs/conditional_detr/conditional_detr_r50_300q_50ep.py"
    keys = ("model.decoder.box_refinement=true", "+model.decoder.keep_logits=true")
    with pytest.raises(ValueError, match=r"keep_logits keeps .* are points: set it to false"):
        make_model(*SMALLER, *keys, config=config)


def test_padding_that_regions_read_cannot_be_left_out():
    config = "configs/sam_detr/sam_detr_multi_scale_r50_300q_12ep.py"
    keys = ("model.decoder.levels=[2,0]", "model.neck.ignore_padding=true")
    with pytest.raises(ValueError, match=r"ignore_padding .*layers\.0\..*aligner reads"):
        make_model(*SMALLER, *keys, config=config)


@pytest.mark.parametrize("modulated", [False, True])
def test_what_the_boxes_of_the_start_learn_from(modulated):
    """The first layer's boxes; with modulation also where it looks, whatever the loss."""
    decoder, initializer = make_decoder("one", modulated), BoxInitializer(QUERIES, DIM).double()
    memory = make_memory(LEVELS["one"], DIM)
    memory = Memory(memory.tokens, memory.grid, torch.zeros_like(memory.tokens))
    queries, _ = initializer(memory, supervised=True)
    made = decoder(queries, memory, supervised=True)["decoder"]

    def reached(loss):
        (grad,) = torch.autograd.grad(
            loss.square().sum(), initializer.boxes, retain_graph=True, allow_unused=True
        )
        return grad is not None and bool(grad.any())

    assert reached(made.boxes[0])
    assert [reached(made.boxes[1]), reached(made.logits[2])] == [modulated, modulated]


def test_the_start():
    initializer = randomise(BoxInitializer(QUERIES, DIM, extra_queries=(2,)))
    memory = make_memory(LEVELS["one"], DIM)
    queries, predictions = initializer(memory, supervised=True)
    assert not predictions and not initializer.sources
    assert torch.equal(queries.reference, initializer.boxes.sigmoid().expand(2, -1, -1))
    assert torch.equal(queries.content, torch.zeros(2, QUERIES + 2, DIM))
    assert initializer(memory, supervised=False)[0].count == QUERIES
    position = center_position(1, queries.reference, queries.content)
    assert not position.requires_grad
    for q in range(QUERIES):
        expected = sine(queries.reference[1, q, :2], DIM)
        torch.testing.assert_close(position[1, q], expected, atol=1e-12, rtol=0)
    torch.manual_seed(0)
    assert BoxInitializer(3000, DIM).boxes.std().item() == pytest.approx(1, rel=0.05)


def test_rows_of_nothing_but_padding_are_where_the_published_code_has_them():
    """At -493447.53 turns, by the order in which it adds: half a cell, a millionth, a half."""
    mask = torch.from_numpy(padded(3, 4, 2, 3))[None]
    encoded = SAMPositionEncoding(8)(mask, torch.float64)
    assert encoded.dtype == torch.float64
    inside = [(0.5 / (2 + 1e-6), 0.5 / (3 + 1e-6)), (1.5 / (2 + 1e-6), 2.5 / (3 + 1e-6))]
    for (y, x), place in zip(inside, ((0, 0), (1, 2)), strict=True):
        expected = sine(torch.tensor((x, y), dtype=torch.float64), 8)
        torch.testing.assert_close(encoded[0][place], expected, atol=1e-5, rtol=0)
    turns = torch.tensor(-493447.53) * (2 * torch.pi)
    far = torch.stack(
        [f(turns / period) for period in (1.0, 100.0) for f in (torch.sin, torch.cos)]
    )
    torch.testing.assert_close(encoded[0, 2, 0, 4:].float(), far, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded[0, 0, 3, :4].float(), far, atol=1e-6, rtol=0)


def test_the_way_of_the_maps():
    """One map with a norm and its own attention, or three levels, coarse to fine."""
    one, several = (load(ROOT / f"configs/sam_detr/{name}_r50_300q_12ep.py").model
                    for name in ("sam_detr", "sam_detr_multi_scale"))  # fmt: skip
    with torch.device("meta"):
        one, several = instantiate(one), instantiate(several)
    assert (one.strides, several.strides) == ((32,), (8, 16, 32))
    assert one.neck.norm.num_groups == 32
    assert one.decoder.levels is None and several.decoder.levels == (2, 2, 1, 1, 0, 0)
    assert several.encoder.layers[0].ffn.linear1.out_features == 1024
    assert one.encoder.layers[0].ffn.linear1.out_features == 2048
    for model in (one, several):
        assert model.decoder.layers[5].sublayers["ffn"].linear1.out_features == 2048
        assert model.decoder.output_norm is None and model.decoder.box_refinement
        assert len(set(map(id, model.decoder.class_heads))) == 6


def test_projections_of_several_levels_start_as_published():
    """Weights and biases within 1 / sqrt(C_in)."""
    torch.manual_seed(0)
    neck = instantiate(rooted(sam_detr_multi_scale(deformable_detr()), ()).neck)
    assert [project[0].in_channels for project in neck.projections] == [512, 1024, 2048]
    for conv, norm in neck.projections:
        bound = conv.in_channels**-0.5
        for drawn in (conv.weight, conv.bias):
            assert 0.95 * bound < drawn.abs().max() <= bound
            assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
        assert (norm.weight == 1).all() and not norm.bias.any()


def test_norm_before_the_tokens():
    model = make_model(*SMALLER, config="configs/sam_detr/sam_detr_r50_300q_12ep.py")
    neck = randomise(model.neck)
    x = random(2, 2048, 3, 4)
    out = neck({"res5": x}, torch.zeros(2, 96, 128, dtype=torch.bool)).tokens
    expected = torch.nn.functional.group_norm(
        neck.projection(x), 32, neck.norm.weight, neck.norm.bias
    )
    torch.testing.assert_close(out, expected.flatten(2).mT)


def test_a_level_for_every_layer_that_there_is():
    model = sam_detr_multi_scale(deformable_detr())
    with pytest.raises(ValueError, match=r"a level for every layer, of which there are 3, got \[2"):
        instantiate(rooted(model, TINY).decoder)
    model = sam_detr_multi_scale(deformable_detr())
    decoder = instantiate(rooted(model, (*TINY, "model.decoder.levels=[0,1,3]")).decoder).double()
    memory = make_memory(LEVELS["several"], DIM)
    queries, _ = BoxInitializer(QUERIES, DIM).double()(memory, supervised=True)
    with pytest.raises(ValueError, match="has level 3, the memory has 0 to 2"):
        decoder(queries, memory, supervised=True)


def test_modulation_needs_points():
    for model in (deformable_detr(), smca(deformable_detr())):
        with pytest.raises(ValueError, match=r"salient points.*call sam_detr\(\)"):
            gaussian_modulation(model)


@pytest.mark.parametrize("add", [ms_detr, group, contrastive_denoising, with_masks])
def test_what_is_added_may_come_before_modulation(add):
    one, other = (
        OmegaConf.to_container(model, resolve=False)
        for model in (
            gaussian_modulation(add(sam_detr(deformable_detr()))),
            add(gaussian_modulation(sam_detr(deformable_detr()))),
        )
    )
    assert one == other


@pytest.mark.parametrize("option", ["keep_logits", "look_forward_twice"])
def test_boxes_have_to_be_refined(option):
    model = sam_detr(deformable_detr())
    overrides = ["model.decoder.box_refinement=false", "model.decoder.keep_logits=false"]
    with pytest.raises(ValueError, match=f"decoder.{option} needs box_refinement"):
        instantiate(rooted(model, (*TINY, *overrides, f"model.decoder.{option}=true")).decoder)


@pytest.mark.parametrize("kind", ["sam_detr_smca", "sam_detr_multi_scale"])
def test_inference_is_the_last_layer_of_training(kind):
    config = f"configs/sam_detr/{kind}_r50_300q_12ep.py"
    levels = ("model.decoder.levels=[2,0]",) if "scale" in kind else ()
    model = make_model(*SMALLER, *levels, config=config).eval()
    batch = make_batch()
    images, mask = model.preprocess(batch)
    targets = model.targets(batch, (images.shape[-2], images.shape[-1]))
    with torch.no_grad():
        alone = model.forward_tensors(images, mask)["decoder"]
        all_layers = model.forward_tensors(images, mask, targets)["decoder"]
    assert torch.equal(alone.boxes[0], all_layers.boxes[-1])
    assert torch.equal(alone.logits[0], all_layers.logits[-1])
