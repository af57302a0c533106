"""Co-DETR on every host, with heads as simple as they can be."""

import copy
from dataclasses import replace

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import OmegaConf

from ms_detr.backbones import small_resnet
from ms_detr.config import load
from ms_detr.recipes import (
    align,
    atss,
    co_detr,
    co_dino,
    dab_deformable,
    deformable_detr,
    denoising,
    dense,
    dino,
    fcos,
    group,
    hybrid,
    mixed_supervision,
    ms_detr,
    one_stage,
    plus_plus,
    rcnn,
    retinanet,
    with_masks,
)
from ms_detr.structures import Step
from ms_detr.variants.co_detr import (
    BoxAndFeatureEncoding,
    BoxEncoding,
    NegativePadding,
    ZeroPadding,
)
from ms_detr.variants.iou_aware import QualityFocalLoss

from .modeling.support import ROOT, SMALLER, make_batch, make_input, rooted
from .test_inference_cost import operators
from .toy_head import second, toy

TINY = (*SMALLER, "model.num_classes=6", "model.dropout=0")
ZEROS = "model.groups.toy.padding._target_=ms_detr.variants.co_detr.ZeroPadding"
EMPTY_BATCH = [make_input(64, 96), make_input(64, 64)]


def co(model, *heads):
    return co_detr(model, heads or (toy,))


HOSTS = {
    "deformable": lambda model: model,
    "dino": dino,
    "align": align,
    "dab_deformable": dab_deformable,
    "ms_detr, ++": lambda model: ms_detr(plus_plus(model)),
    "ms_detr, dino": lambda model: ms_detr(dino(model)),
    "hybrid, group": lambda model: group(hybrid(model, num_queries=9, k=2), num_groups=2),
    "denoising": denoising,
    "masks": lambda model: with_masks(model, num_points=50),
}


def small(model):
    """A composed model with a small backbone, whose links resolve."""
    model.backbone = L(small_resnet)(widths=(8, 16, 24, 32), blocks=1, norm="BN")
    model.neck.in_channels = dict(res2=16, res3=24, res4=32)
    if "masks" in model:
        model.masks.in_channels = dict(res2=16)
    return rooted(model, TINY)


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return instantiate(cfg)


def make(host, *heads, seed=0):
    return build(small(co(HOSTS[host](deformable_detr()), *heads)), seed)


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_train_all_of_it(host):
    """Whether there are objects or not; and the encoding is the one that fits."""
    model = make(host)
    kind = type(model.groups["toy"].encoding)
    moving = any(name in host for name in ("dino", "align", "dab"))
    assert kind is (BoxEncoding if moving else BoxAndFeatureEncoding)
    for batch in (make_batch(), EMPTY_BATCH):
        model.zero_grad()
        losses = model(batch)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        names = {name.split("/")[0] for name in losses}
        assert {"toy", "toy_head", "o2o"} <= names
        layered = {f"toy/loss_{loss}/{i}" for loss in ("class", "bbox", "giou") for i in (0, 1)}
        assert {name for name in losses if name.startswith("toy/")} == layered


def test_a_forward_pass_waits_for_no_other_process(monkeypatch):
    """Else one that fails in it leaves the others waiting, or takes counts for their verdict."""
    model = build(small(co_detr(ms_detr(plus_plus(deformable_detr())), (rcnn, atss))))
    batch = make_batch()
    objects = [len(x["instances"]) for x in batch]
    step = Step(2 * sum(objects), sum(objects), max(objects), len(batch), processes=2)
    batch = [{**x, "step": step} for x in batch]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    for name in ("all_reduce", "all_gather", "broadcast", "all_gather_object"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, **__: pytest.fail("a collective"))
    losses = model(batch)
    assert {"rcnn_head", "rcnn_rpn", "atss_head", "rcnn", "atss"} < {
        x.split("/")[0] for x in losses
    }
    assert {x.split("/")[0] for x in losses.counts} == {"atss_head", "rcnn", "atss"}


@pytest.mark.parametrize("host", ["deformable", "ms_detr, dino", "denoising"])
def test_the_host_trains_and_predicts_as_without(host):
    """Same weights, same batch: losses, detections and the operators of inference."""
    joined = make(host, toy, second)
    alone = build(small(HOSTS[host](deformable_detr())))
    state = joined.state_dict()
    alone.load_state_dict({name: state[name] for name in alone.state_dict()})
    expected, found = (losses_in_double(model) for model in (alone, joined))
    extra = {name.split("/")[0] for name in found.keys() - expected.keys()}
    assert extra == {"toy", "toy_head", "second", "second_head"}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)
    alone.eval(), joined.eval()
    assert operators(alone) == operators(joined)
    joined.auxiliary, joined.groups = None, None
    for one, other in zip(predict(alone), predict(joined), strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)


def losses_in_double(model):
    images, mask = model.double().preprocess(make_batch())
    targets = model.targets(make_batch(), mask.shape[1:])
    targets = replace(targets, boxes=targets.boxes.double())
    torch.manual_seed(3)
    return model.criterion(model.forward_tensors(images, mask, targets), targets)


def predict(model):
    with torch.no_grad():
        return [x["instances"] for x in model.float()(make_batch())]


def zeros(cfg):
    """With queries of zeros, which are hidden, in the group of the first head."""
    cfg.groups.toy.padding = L(ZeroPadding)()
    cfg.groups.toy.min_queries = 40


@pytest.mark.parametrize("change", [lambda cfg: None, zeros], ids=["negatives", "zeros"])
@pytest.mark.parametrize("host", ["deformable", "ms_detr, dino", "dab_deformable"])
def test_passes_of_their_own_learn_the_same(host, change):
    """As the released code has them, in double precision: losses and all gradients."""
    cfg = small(co(HOSTS[host](deformable_detr()), toy, rcnn))
    change(cfg)
    found = []
    for own_pass in (False, True):
        cfg.groups.toy.own_pass = cfg.groups.rcnn.own_pass = own_pass
        model = build(cfg)
        for parameter in model.decoder.parameters():  # off the kinks of bilinear interpolation
            parameter.data += 0.01 * torch.randn_like(parameter)
        runs = []
        model.decoder.layers[0].register_forward_hook(lambda *_, runs=runs: runs.append(1))
        losses = losses_in_double(model)
        assert len(runs) == (3 if own_pass else 1)
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(sum(losses.values()), parameters)
        found.append((losses, dict(zip(names, gradients, strict=True))))
    for expected, own in zip(*found, strict=True):
        assert own.keys() == expected.keys()
        for name, value in expected.items():
            size = value.abs().max().clamp(min=1)
            assert (own[name] - value).abs().max() <= 1e-12 * size, name


@pytest.mark.parametrize("host", ["deformable", "dino"])
def test_what_learns_from_the_new_queries(host):
    """The encoder and, by what the head looks at, the adapter; with boxes alone not the latter."""
    model = make(host)
    losses = model(make_batch())
    queries = sum(loss for name, loss in losses.items() if name.startswith("toy/"))
    queries.backward()
    encoder = model.encoder.layers[0].ffn.linear1.weight.grad
    assert encoder.abs().sum() > 0
    adapter = [parameter.grad for parameter in model.auxiliary.adapter.parameters()]
    assert all(grad is None for grad in adapter) == (host == "dino")


def test_weights_are_single_keys():
    """Lambda 1 and lambda 2 of the paper, and of the head."""
    cfg = small(co(plus_plus(deformable_detr())))
    before = build(cfg)(make_batch())
    cfg.criterion.terms.toy.weight, cfg.auxiliary.heads.toy.weight = 0.5, 3.0
    after = build(cfg)(make_batch())
    factor = {"toy": 0.5, "toy_head": 0.25}
    for name, loss in before.items():
        torch.testing.assert_close(after[name], factor.get(name.split("/")[0], 1.0) * loss)


def test_losses_of_the_new_queries_are_the_hosts():
    """Their weights follow, those of masks don't."""
    model = with_masks(ms_detr(co(deformable_detr())))
    model.criterion.terms.o2o.losses.bbox.weight = 4.0
    term = build(small(model)).criterion.terms["toy"]
    assert {name: loss.weight for name, loss in term.losses.items()} == {
        "class": 1.0, "bbox": 4.0, "giou": 2.0
    }  # fmt: skip


def test_co_dino():
    model = build(small(co_dino(deformable_detr(), (toy,))))
    for term in model.criterion.terms.values():
        loss = term.losses["class"]
        assert isinstance(loss, QualityFocalLoss) and loss.weight == 1.0
    assert model.postprocess.nms.candidates == 12 and model.postprocess.top_k == 300
    assert model.groups["denoising"].box_noise == 1.0
    heads = model.decoder.class_heads
    assert heads[0] is not heads[1]
    losses = model(make_batch())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(len(x) <= 300 for x in predict(model.eval()))


@pytest.mark.parametrize("mixed", [ms_detr, mixed_supervision])
def test_mixed_supervision_comes_before_or_after(mixed):
    one, other = mixed(co(dino(deformable_detr()))), co(mixed(dino(deformable_detr())))
    one, other = (OmegaConf.to_container(model, resolve=False) for model in (one, other))
    assert one == other
    assert build(small(copy.deepcopy(mixed(co_dino(deformable_detr(), (toy,))))))


def test_the_encoding_follows_the_host():
    """Whatever was called first."""
    model = build(small(dino(co(deformable_detr()))))
    assert isinstance(model.groups["toy"].encoding, BoxEncoding)


def test_zero_padding_by_its_key():
    cfg = small(co(deformable_detr()))
    cfg.groups.toy.padding = L(ZeroPadding)(hidden=True)
    losses = build(cfg)(make_batch())
    assert all(loss.isfinite() for loss in losses.values())


def test_a_head_or_its_queries_alone():
    cfg = small(co(deformable_detr(), toy, second))
    cfg.groups.second = None
    names = {name.split("/")[0] for name in build(cfg)(make_batch())}
    assert names == {"o2o", "encoder", "toy", "toy_head", "second_head"}
    cfg.auxiliary.heads.toy = None
    with pytest.raises(ValueError, match=r"groups\.toy makes queries of .* 'toy' .*\['second'\]"):
        build(cfg)
    cfg.groups.toy = None
    names = {name.split("/")[0] for name in build(cfg)(make_batch())}
    assert names == {"o2o", "encoder", "second_head"}


@pytest.mark.parametrize("host", ["deformable", "masks"])
def test_a_head_is_evaluated(host):
    """It has no masks, where the decoder has them."""
    cfg = small(co(HOSTS[host](deformable_detr())))
    cfg.evaluate_head = "toy"
    found = predict(build(cfg).eval())
    assert [len(x) for x in found] == [1, 1, 1]
    assert not any(x.has("pred_masks") for x in found)


def test_a_heads_weight_of_0_leaves_its_queries():
    """The paper's ablation by one key; all parameters still have gradients."""
    cfg = small(co_detr(plus_plus(deformable_detr()), heads=(rcnn, atss)))
    cfg.auxiliary.heads.rcnn.weight = cfg.auxiliary.heads.atss.weight = 0.0
    model = build(cfg)
    losses = model(make_batch())
    of_heads = [name for name in losses if name.startswith(("rcnn_", "atss_"))]
    assert len(of_heads) == 7 and all(losses[name] == 0 for name in of_heads)
    assert losses["atss/loss_giou/1"] > 0 and losses["rcnn/loss_giou/1"] > 0
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in model.parameters())
    assert not any(x.grad.any() for x in model.auxiliary.heads.parameters())


@pytest.mark.parametrize("padding", [NegativePadding, ZeroPadding])
@pytest.mark.parametrize(
    "batch", [EMPTY_BATCH, [make_input(64, 96, labels=(0, 0)), make_input(64, 64)]]
)
def test_one_class_and_images_without_objects(batch, padding):
    cfg = small(co_detr(plus_plus(deformable_detr()), heads=(rcnn, atss, retinanet, fcos)))
    cfg.num_classes = 1
    for name in ("rcnn", "atss", "retinanet", "fcos"):
        cfg.groups[name].padding = L(padding)()
    model = build(cfg)
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    boxes = sum(loss for name, loss in losses.items() if "giou" in name and name[0] in "arf")
    assert (boxes == 0) == (batch is EMPTY_BATCH)


def test_more_positives_than_queries():
    """Of 400 objects ATSS finds more than 300: so many queries, none of which fills up."""
    model = build(small(co_detr(plus_plus(deformable_detr()), heads=(atss,))))
    corners = [(8 * i, 8 * j) for i in range(20) for j in range(20)]
    boxes = [(x, y, x + 16, y + 16) for x, y in corners]
    seen = {}
    model.groups["atss"].register_forward_hook(lambda *call: seen.update(group=call[-1]))
    losses = model([make_input(176, 176, labels=(1,) * len(boxes), boxes=boxes)])
    assert all(loss.isfinite() for loss in losses.values())
    assert seen["group"].queries.count == 300
    assert seen["group"].targets.valid.sum() == 300


def test_one_cell_of_one_image_is_too_little_for_the_adapter():
    """Of 32 channels in 32 groups; the backbone's norm, which is frozen, has no part in it."""
    cfg = small(co(deformable_detr()))
    model = build(rooted(cfg, ["model.embed_dim=32", "model.backbone.norm=FrozenBN"]))
    x = make_input(60, 50, labels=(1,))
    with pytest.raises(ValueError, match=r"0\.png is 50 x 60 .*GroupNorm can't.*embed_dim to 64"):
        model([x])
    assert all(loss.isfinite() for loss in model([x, x]).values())


@pytest.mark.parametrize(
    ("recipe", "overrides", "kinds"),
    [
        (plus_plus, [], (BoxAndFeatureEncoding, NegativePadding)),
        (plus_plus, ["model.groups.toy.encoding.moving=true"], (BoxEncoding, NegativePadding)),
        (dino, [ZEROS, "+model.groups.toy.padding.hidden=false"], (BoxEncoding, ZeroPadding)),
    ],
)
def test_encoding_and_padding_by_override(recipe, overrides, kinds):
    cfg = small(co(recipe(deformable_detr())))
    model = build(rooted(cfg, overrides))
    group = model.groups["toy"]
    assert (type(group.encoding), type(group.padding)) == kinds and not group.padding.hidden
    assert all(loss.isfinite() for loss in model(make_batch()).values())


def test_positions_that_move_take_no_encoding_with_one_of_its_own():
    cfg = small(co(dino(deformable_detr())))
    model = build(rooted(cfg, ["model.groups.toy.encoding.moving=false"]))
    with pytest.raises(ValueError, match="positions follow the boxes .* give the group a BoxEnc"):
        model(make_batch())


def o2o():
    """A head with the name of a term."""
    return toy()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: co(dense(deformable_detr())),
            r"method of several maps, this one reads \['res5'\]",
        ),
        (lambda: co(deformable_detr(), toy, toy), r"two heads of one name: \['toy', 'toy'\]"),
        (lambda: co(deformable_detr(), o2o), "some that are called o2o: give the head's function"),
    ],
)
def test_what_it_can_not_be_added_to(model, message):
    with pytest.raises(ValueError, match=message):
        model()


def test_points_have_no_queries_of_boxes():
    cfg = small(co(one_stage(deformable_detr(), box_refinement=True)))
    with pytest.raises(ValueError, match=r"groups\.toy makes queries from boxes.* are points"):
        build(cfg)


def test_the_content_starts_as_released():
    def content(model):
        return build(small(model)).query_initializer.content

    numbers = [content(recipe(deformable_detr())) for recipe in (dino, co_dino)]
    assert numbers[0].shape == numbers[1].shape
    rows, columns = numbers[0].shape
    assert numbers[0].std().item() == pytest.approx((2 / (rows + columns)) ** 0.5, rel=0.15)
    assert numbers[1].std().item() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize(
    ("name", "weights", "values"),
    [  # of classes; queries, detections, learning rate, temperature, offset, separate rates
        ("co_deformable_detr_pp_r50_300q_12ep", 2, (300, 100, 2e-4, 10000, -0.5, 2)),
        ("co_dino_r50_5scale_12ep", 1, (900, 300, 2e-4, 20, 0, 1)),
    ],
)
def test_the_recipe_is_as_published(name, weights, values):
    cfg = load(ROOT / f"configs/co_detr/{name}.py")
    model, position = cfg.model, cfg.model.neck.position
    assert values == (
        model.num_queries, model.postprocess.top_k, cfg.optimizer.lr, position.temperature,
        position.offset, len(cfg.optimizer.params.lr_factors),
    )  # fmt: skip
    assert model.dropout == 0 and model.decoder.look_forward_twice
    for name in ("o2o", "encoder", "rcnn", "atss"):
        losses = model.criterion.terms[name].losses
        assert [losses[x].weight for x in ("class", "bbox", "giou")] == [weights, 5, 2]
    heads = model.auxiliary.heads
    assert (heads.atss.weight, heads.atss.box_weight, heads.rcnn.box_weight) == (12, 2, 10)
    assert model.neck.bias is False
    group = model.groups.atss
    assert (group.max_queries, group.min_queries) == (300, 9)
    assert list(model.groups.keys())[-2:] == ["rcnn", "atss"]
