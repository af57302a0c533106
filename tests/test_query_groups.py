"""Models with query groups: built from configs, trained, and without them at inference."""

import copy
from dataclasses import replace

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.recipes import (
    align,
    conditional,
    contrastive_denoising,
    dab,
    dab_deformable,
    deformable_detr,
    denoising,
    dense,
    detr,
    dino,
    dot_product,
    gaussian_modulation,
    group,
    group_two_stage,
    hybrid,
    ms_detr,
    one_stage,
    plus_plus,
    sam_detr,
    smca,
    smca_multi_scale,
    with_masks,
    with_prior,
)
from ms_detr.supervision import LocalObjects, ReleasedTopK, SupervisionTerm

from .modeling.support import (
    ROOT,
    SMALL,
    SMALLER,
    make_batch,
    make_input,
    rooted,
    trained_parameters,
)
from .test_inference_cost import operators

KINDS = {
    "hybrid": lambda model: hybrid(model, num_queries=20, k=3),
    "group": lambda model: group(model, num_groups=3),
    "group, own selections": lambda model: group_two_stage(model, num_groups=3),
    "dn": denoising,
    "cdn": contrastive_denoising,
    "hybrid and dn": lambda model: denoising(hybrid(model, num_queries=20, k=3)),
    "group and cdn": lambda model: contrastive_denoising(group(model, num_groups=3)),
    "hybrid, group and cdn": lambda model: contrastive_denoising(group(hybrid(model, 20, 3), 3)),
}
EMPTY_BATCH = [make_input(64, 96), make_input(64, 64)]


def config(*overrides):
    """A small MS-DETR++."""
    return plus_plus(load(ROOT / SMALL, overrides).model)


def make(cfg, seed=0):
    torch.manual_seed(seed)
    return instantiate(cfg)


def check_gradients(model, batch):
    losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_trained(kind):
    cfg = KINDS[kind](config())
    losses = check_gradients(make(cfg), make_batch())
    expected = {name for name, term in cfg.criterion.terms.items() if name != "_target_"}
    assert {name.split("/")[0] for name in losses} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_without_objects_every_parameter_has_a_gradient(kind):
    losses = check_gradients(make(KINDS[kind](config())), EMPTY_BATCH)
    for name, loss in losses.items():
        if name.startswith("denoising/"):
            assert loss == 0, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [12, 100])
def test_fewer_tokens_than_queries(kind, queries):
    """22 tokens: the groups shrink, or vanish where the primary queries take all."""
    model = make(KINDS[kind](config(f"model.num_queries={queries}")))
    batch = [make_input(32, 32, labels=(1, 2), seed=1), make_input(32, 24, seed=2)]
    check_gradients(model, batch)
    with torch.no_grad():
        predictions = model.eval().forward_tensors(*model.preprocess(batch))
    assert predictions["decoder"].logits.shape[2] == min(22, queries)


@pytest.mark.parametrize("kind", ["hybrid", "group"])
def test_one_stage(kind):
    model = ms_detr(KINDS[kind](one_stage(deformable_detr(), box_refinement=True)))
    trained = ("model.backbone.freeze_at=0", "model.backbone.norm=BN")
    check_gradients(make(rooted(model, (*SMALLER, *trained))), make_batch())


def test_the_same_seed_trains_the_same():
    model = make(KINDS["hybrid and dn"](config()))

    def losses(seed):
        torch.manual_seed(seed)
        return model(make_batch())

    first, again, other = losses(1), losses(1), losses(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["denoising/loss_bbox/0"], other["denoising/loss_bbox/0"])


@pytest.mark.parametrize("kind", KINDS)
def test_at_inference_groups_are_gone(kind):
    """The operators of the plain model; parameters that belong to groups may be anything.

    DN-DETR's indicator stays, as published: a channel less of the content, and 0 in its place.
    """
    plain, model = make(config()).eval(), make(KINDS[kind](config())).eval()
    expected, found = operators(plain), operators(model)
    if "dn" in kind.split():
        extra = found - expected
        assert set(extra) == {"aten.slice.Tensor", "aten.constant_pad_nd.default"}
        assert all(count <= 2 for count in extra.values())
        assert set(expected - found) <= {"aten.clone.default"}  # the pad is a copy already
    else:
        assert found == expected
    before = predict(model)
    rows = model.query_initializer.num_queries
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("initializer.content"):
                parameter[rows:].fill_(float("nan"))
    model.groups = None
    for one, other in zip(before, predict(model), strict=True):
        assert torch.equal(one["instances"].scores, other["instances"].scores)
        assert torch.equal(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)


def predict(model):
    with torch.no_grad():
        return model(make_batch())


def train_in_double(model):
    """The losses of one batch."""
    images, mask = model.double().preprocess(make_batch())
    targets = model.targets(make_batch(), mask.shape[1:])
    targets = replace(targets, boxes=targets.boxes.double())
    torch.manual_seed(3)
    return model.criterion(model.forward_tensors(images, mask, targets), targets)


def test_the_primary_queries_train_as_without_groups():
    """Same weights, same batch: what is not the group's is the same loss."""
    with_group = make(KINDS["hybrid"](config()))
    alone = make(config())
    state = with_group.state_dict()
    content = "query_initializer.content"
    alone.load_state_dict({**state, content: state[content][:12]})
    expected, found = train_in_double(alone), train_in_double(with_group)
    assert set(found) - set(expected) == {name for name in found if name.startswith("hybrid/")}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)


def test_mixed_supervision_of_a_group():
    """A term that names the group's tap; the tap then predicts for the group as well."""
    cfg = KINDS["hybrid"](config())
    cfg.criterion.terms.hybrid_o2m = L(SupervisionTerm)(
        source="hybrid.decoder.cross_attention",
        assigner=L(ReleasedTopK)(k=6, threshold=0.4, alpha=0.3, quota=0.25),
        losses=copy.deepcopy(cfg.criterion.terms.o2m.losses),
    )
    losses = check_gradients(make(cfg), make_batch())
    assert losses["hybrid_o2m/loss_class/1"] > 0


# Trainable parameters with 91 classes: Hybrid DETR's as published, the others by what they add.
PLUS_PLUS = 47_262_873 + 300 * 256
COUNTS = {
    "hybrid_detr/hybrid_deformable_detr_pp_r50_300q_12ep.py": 47_723_673,
    "group_detr/group_deformable_detr_pp_r50_300q_12ep.py": PLUS_PLUS + 3000 * 256,
    "dn_detr/dn_deformable_detr_pp_r50_300q_12ep.py": PLUS_PLUS + 92 * 255,
    "dn_detr/cdn_deformable_detr_pp_r50_300q_12ep.py": PLUS_PLUS + 92 * 256,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    assert trained_parameters(name) == COUNTS[name]


def test_terms_are_as_published():
    terms = load(ROOT / "configs" / "hybrid_detr" / "hybrid_deformable_detr_pp_r50_300q_12ep.py")
    terms = terms.model.criterion.terms
    assert (terms.hybrid.weight, terms.hybrid.assigner.k) == (1.0, 6)
    weights = {name: [loss.weight for loss in losses_of(terms[name])] for name in ("o2o", "hybrid")}
    assert weights == {"o2o": [2, 5, 2], "hybrid": [2, 5, 2]}
    for name in ("dn", "cdn"):
        cfg = load(ROOT / "configs" / "dn_detr" / f"{name}_deformable_detr_pp_r50_300q_12ep.py")
        assert [loss.weight for loss in losses_of(cfg.model.criterion.terms.denoising)] == [1, 5, 2]
        assert (cfg.model.decoder.epsilon, cfg.model.postprocess.top_k) == (1e-3, 300)
        objects = instantiate(cfg.model.criterion.terms.denoising).objects
        assert isinstance(objects, LocalObjects) == (name == "dn")


def losses_of(term):
    return [term.losses[name] for name in ("class", "bbox", "giou")]


def test_one_key_sets_the_queries_of_all_groups():
    model = make(KINDS["group"](config("model.num_queries=5")))
    assert model.groups.extra_queries == {"group": 10}
    assert model.query_initializer.extra_queries == 10


def test_a_group_without_a_term():
    cfg = KINDS["hybrid"](config())
    cfg.criterion.terms.hybrid = None
    message = r"no term .* has the source \['hybrid\.decoder'\].*a group's queries"
    with pytest.raises(ValueError, match=message):
        make(cfg)


def test_a_term_without_a_group():
    cfg = KINDS["cdn"](config())
    del cfg.groups.denoising
    message = r"denoising\.source is 'denoising\.decoder', but this model predicts.*model\.groups"
    with pytest.raises(ValueError, match=message):
        make(cfg)


@pytest.mark.parametrize("extra", [[], [19], [20, 20]])
def test_extra_queries_that_do_not_match(extra):
    cfg = KINDS["hybrid"](config())
    cfg.query_initializer.extra_queries = extra
    message = rf"adds up to {sum(extra)}, but .* take \{{'hybrid': 20\}}: let it add up to 20"
    with pytest.raises(ValueError, match=message):
        make(cfg)


@pytest.mark.parametrize("add", [denoising, contrastive_denoising])
def test_denoising_needs_boxes(add):
    cfg = rooted(add(one_stage(deformable_detr(), box_refinement=True)))
    message = r"model\.groups\.denoising makes queries from boxes.* are points.*TwoStageInit"
    with pytest.raises(ValueError, match=message):
        make(cfg)


def test_a_group_is_dropped_from_the_command_line():
    path = ROOT / "configs" / "hybrid_detr" / "hybrid_deformable_detr_pp_r50_300q_12ep.py"
    overrides = [
        "model.groups.hybrid=null",
        "model.criterion.terms.hybrid=null",
        "model.query_initializer.extra_queries=[]",
    ]
    with torch.device("meta"):
        model = instantiate(load(path, overrides).model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == PLUS_PLUS - 11 * 1799


def test_two_stages_of_groups_are_dropped_from_the_command_line():
    overrides = [
        "model.groups.group=null",
        "model.criterion.terms.group=null",
        "model.criterion.terms.group_encoder=null",
        "model.query_initializer.initializer.extra_queries=[]",
    ]
    path = ROOT / "configs" / "group_detr" / "group_dino_r50_4scale_12ep.py"
    with torch.device("meta"):
        model = instantiate(load(path, overrides).model)
        plain = instantiate(load(ROOT / "configs" / "dino" / "dino_r50_4scale_12ep.py").model)
    own = {name.replace("initializer.initializer", "initializer") for name in model.state_dict()}
    assert own == set(plain.state_dict())
    assert set(map(str, model.criterion.sources)) == {"decoder", "encoder", "denoising.decoder"}


@pytest.mark.parametrize("add", [hybrid, group])
def test_groups_join_what_denoising_has_wrapped(add):
    """The order of the calls changes nothing of the model."""
    first, last = (config() for _ in range(2))
    first, last = make(add(denoising(first))), make(denoising(add(last)))
    assert first.query_initializer.extra_queries == last.query_initializer.extra_queries > 0
    shapes = {name: value.shape for name, value in first.state_dict().items()}
    assert shapes == {name: value.shape for name, value in last.state_dict().items()}


@pytest.mark.parametrize("key", ["num_classes", "embed_dim"])
@pytest.mark.parametrize("kind", ["dn", "cdn"])
def test_a_group_that_differs_from_the_models_key(kind, key):
    cfg = KINDS[kind](config())
    cfg.groups.denoising[key] = 32
    with pytest.raises(ValueError, match=rf"model\.{key} is .* model\.groups\.denoising .* 32"):
        make(cfg)


def test_training_without_targets():
    model = make(KINDS["hybrid"](config()))
    with pytest.raises(ValueError, match="made from targets"):
        model.forward_tensors(*model.preprocess(make_batch()))


FAMILY = {
    "group, conditional": lambda model: group(conditional(model), num_groups=3),
    "group, smca": lambda model: group(smca(model), num_groups=3),
    "hybrid, smca of several scales": lambda model: hybrid(
        smca_multi_scale(model), num_queries=20, k=3
    ),
    "group, sam": lambda model: group(sam_detr(model), num_groups=3),
    "contrastive denoising, sam with smca": lambda model: contrastive_denoising(
        gaussian_modulation(sam_detr(model))
    ),
    "hybrid, dab": lambda model: hybrid(dab(model), num_queries=20, k=3),
    "hybrid, dense with focal loss": lambda model: hybrid(dense(model), num_queries=20, k=3),
    "hybrid, detr": lambda model: hybrid(detr(model), num_queries=20, k=3),
    "hybrid and cdn, dab deformable": lambda model: contrastive_denoising(
        hybrid(dab_deformable(model), num_queries=20, k=3)
    ),
    "group, own selections, dino": lambda model: group_two_stage(dino(model), num_groups=3),
    "hybrid, dino": lambda model: hybrid(dino(model), num_queries=20, k=3),
    "group, masks": lambda model: group(with_masks(model, num_points=50), num_groups=3),
    "cdn, align, masks": lambda model: with_masks(align(model), num_points=50),
    "hybrid, detr, masks from boxes": lambda model: hybrid(
        with_masks(detr(model), with_prior(dot_product()), num_points=50), num_queries=20, k=3
    ),
}


@pytest.mark.parametrize("kind", FAMILY)
def test_groups_join_the_whole_family(kind):
    """The primary queries predict as if there were no groups, and every parameter is trained."""
    cfg = rooted(ms_detr(FAMILY[kind](deformable_detr())))
    cfg.num_queries, cfg.dropout = 12, 0.0
    model = make(cfg)
    untrained = {n for n, p in model.named_parameters() if not p.requires_grad}
    losses = model(make_batch())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert name in untrained or parameter.grad is not None, name
    model.double().eval()
    images, mask = model.preprocess(make_batch())
    targets = model.targets(make_batch(), (80, 96))
    with torch.no_grad():
        joined = model.forward_tensors(images, mask, targets)["decoder"]
        alone = model.forward_tensors(images, mask)["decoder"]
    assert joined.logits.shape[2] == 12
    torch.testing.assert_close(joined.logits[-1], alone.logits[-1])
    torch.testing.assert_close(joined.boxes[-1], alone.boxes[-1])
