import re

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.data import iterations_per_epoch
from ms_detr.engine import build_optimizer
from ms_detr.engine.checks import DETECTRON2S
from ms_detr.engine.fit import run_length
from ms_detr.engine.parts import in_parts
from ms_detr.layers import SemanticAlignedAttention
from ms_detr.layers.dense_attention import SplitAttention
from ms_detr.recipes import coco, coco_lsj
from ms_detr.supervision import AnchorHungarianAssigner

from .modeling.support import BASELINE, CONFIGS, MS_DETR, ROOT, SMALLER, make_input, make_model
from .supervision.reference import matching_cost
from .supervision.support import make_images, make_predictions, make_targets

# Of the large backbones only the kind stays.
SMALLER_SWIN = (
    "model.backbone.options.drop_path_rate=0",  # a block that is dropped has no gradient
    "+model.backbone.options.embed_dim=8",
    "+model.backbone.options.depths=[1,1,2,1]",
    "+model.backbone.options.num_heads=[1,2,2,4]",
    "+model.backbone.options.window_size=3",
    "model.neck.in_channels={res3: 16, res4: 32, res5: 64}",
)
LEVELS = ("model.decoder.levels=[2,0]",)  # of two layers
# Longer schedules and other images train a model that another config has.
LONGER = r"_(36ep|lsj_\d+ep)\.py$|sam_detr_.*(dc5|multi_scale)_r50_300q_50ep"
OWN_MODEL = [c for c in CONFIGS if not re.search(LONGER, c)]
MORE_MAPS = ("model.neck.in_channels={res2: 8, res3: 16, res4: 32, res5: 64}",)
# Wide enough for two cells of the coarsest level: attention to one would have no gradient.
BATCH = [make_input(48, 96, labels=(1, 0, 3), seed=1), make_input(64, 40, seed=2)]
COCO = [BASELINE, MS_DETR]
# The lines that somebody published a result for.
PUBLISHED = [
    *COCO,
    "configs/deformable_detr/deformable_detr_pp_r50_300q_12ep.py",
    "configs/ms_detr/ms_detr_pp_r50_300q_12ep.py",
    "configs/ms_detr/ms_detr_pp_r50_900q_12ep.py",
]
FAMILY = "configs/demo/family"
MICROGRAPHS = ("configs/bccd/", "configs/nuclei/")  # whose backbone is frozen
PLAIN = [c for c in CONFIGS if c.startswith(FAMILY) and "ms_detr" not in c]
# What mixed supervision is: a term and its tap, the order, how proposals are matched.
MIXED = (
    "decoder.layer.order",
    "decoder.layer.taps",
    "criterion.terms.o2m",
    "criterion.terms.encoder.assigner",
)
DROP_AT_20 = ["lr_multiplier.milestones=[20]", "lr_multiplier.num_updates=24"]


def test_configs_are_found():
    assert {BASELINE, MS_DETR, "configs/demo/ms_detr.py"} <= set(CONFIGS)


@pytest.mark.parametrize("config", CONFIGS)
def test_has_everything_that_training_needs(config):
    cfg = load(ROOT / config)
    assert set(cfg) >= {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    assert set(cfg.dataloader) >= {"train", "test", "evaluator"}
    assert set(cfg.train) >= DETECTRON2S.keys()
    instantiate(cfg.lr_multiplier)(0.5)


@pytest.mark.parametrize("config", CONFIGS)
def test_instantiates_at_full_size(config):
    cfg = load(ROOT / config)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    # A term's tap exists and no other does: every parameter is trained.
    assert model.decoder.tapped <= model.criterion.sources
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for part in cfg.optimizer.params.lr_factors:
        assert any(part in name for name in trained), f"lr_factors.{part} matches nothing"


def untrained(model):
    """What reads a content that is zero: the first ones where queries start without content."""
    if any(name.endswith("content") for name, _ in model.query_initializer.named_parameters()):
        return set()
    first = model.decoder.layers[0].order[0]
    sublayer = f"decoder.layers.0.sublayers.{first}"
    if not isinstance(model.get_submodule(sublayer), SplitAttention):
        return set()
    names = ("content_query",)
    if first == "self_attention":
        names = ("content_query", "content_key", "value")
    elif isinstance(model.get_submodule(sublayer), SemanticAlignedAttention):
        names = ("aligner.content_gate", "aligner.position_gate")
    return {f"{sublayer}.{name}.weight" for name in names}


@pytest.mark.parametrize("config", OWN_MODEL)
def test_two_steps_train_every_parameter_and_it_predicts(config):
    swin = (*SMALLER_SWIN, *(MORE_MAPS if "5scale" in config else ())) if "swin" in config else ()
    levels = LEVELS if "levels" in load(ROOT / config).model.decoder else ()
    classes = ("model.num_classes=6",) if config.startswith(MICROGRAPHS) else ()
    model = make_model(*SMALLER, *swin, *levels, *classes, config=config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    whole = config.startswith(MICROGRAPHS)
    allowed = ("backbone.",) if whole else ("backbone.stem", "backbone.res2")
    assert all(name.startswith(allowed) for name in frozen)
    assert whole == (not any(name.startswith("backbone.") for name in trained))
    dead = untrained(model)
    (batch,) = in_parts(BATCH, 1, done=0.5)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        losses = model(batch)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        for name, parameter in trained.items():
            assert parameter.grad is not None, f"{name} has no gradient"
            # Zeros of the initialisation keep some gradients zero in the first two steps.
            # What all keys have in common changes no softmax; ATSS has a scale for every level,
            # whether an object lies there or not.
            if step == 2 and not name.endswith("_key.bias") and ".atss.scales." not in name:
                zero = not parameter.grad.any()
                assert zero == (name in dead), f"the gradient of {name} is {zero and 'zero'}"
        optimizer.step()
    with torch.no_grad():
        out = model.eval()(BATCH)
    for made in out:
        assert 0 < len(made["instances"]) <= model.postprocess.top_k
        assert made["instances"].pred_boxes.tensor.isfinite().all()


@pytest.mark.parametrize("config", COCO)
def test_coco_recipe(config):
    """As published (facts of the authors' scripts), with 80 contiguous classes."""
    cfg = load(ROOT / config)
    model = cfg.model
    assert (model.num_classes, model.num_queries, model.embed_dim) == (80, 300, 256)
    assert (model.feedforward_dim, model.num_heads, model.dropout) == (2048, 8, 0.1)
    assert (model.encoder.num_layers, model.decoder.num_layers) == (6, 6)
    assert model.postprocess.top_k == 100
    assert model.decoder.epsilon == 1e-5
    assert not model.decoder.look_forward_twice
    assert not model.query_initializer.mixed_selection
    assert tuple(model.pixel_mean) == (123.675, 116.28, 103.53)
    assert tuple(model.pixel_std) == (58.395, 57.12, 57.375)
    assert (model.backbone.norm, model.backbone.freeze_at) == ("FrozenBN", 2)
    optimizer = cfg.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (2e-4, 1e-4)
    assert dict(optimizer.params.lr_factors) == {"backbone": 0.1, "sampling_offsets": 0.1}
    assert (cfg.train.epochs, cfg.train.clip_grad_norm) == (12, 0.1)
    assert cfg.dataloader.train.total_batch_size == 16
    schedule = instantiate(cfg.lr_multiplier)
    assert [schedule(epoch / 12) for epoch in (0, 5, 10.99, 11, 11.99)] == pytest.approx(
        [1, 1, 1, 0.1, 0.1]
    )


@pytest.mark.parametrize("method", ["deformable_detr", "ms_detr"])
@pytest.mark.parametrize("kind", ["one_stage", "refined"])
def test_learned_reference_points_have_a_rate_of_their_own(method, kind):
    cfg = load(ROOT / "configs" / method / f"{method}_{kind}_r50_300q_12ep.py")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    optimizer = build_optimizer(cfg.optimizer, model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.query_initializer.named_parameters():
        tenth = name.startswith("reference_points.")
        assert rates[id(parameter)] == pytest.approx(2e-5 if tenth else 2e-4), name
    assert "reference_points.weight" in dict(model.query_initializer.named_parameters())


@pytest.mark.parametrize(
    ("override", "epochs", "drop"),
    [
        ([], 12, 11),
        (["train.epochs=24"], 24, 22),
        (["train.epochs=24", *DROP_AT_20], 24, 20),
    ],
)
@pytest.mark.parametrize("config", PUBLISHED)
def test_one_override_makes_a_run_longer(config, override, epochs, drop):
    """The learning rate drops after the same share of the run, unless asked otherwise."""
    cfg = load(ROOT / config, override)
    epoch = iterations_per_epoch(118_287, cfg.dataloader.train.total_batch_size)
    length = run_length(cfg.train, epoch)
    assert length == epochs * epoch == epochs * 7392
    schedule = instantiate(cfg.lr_multiplier)
    iterations = (0, drop * epoch - 1, drop * epoch, length - 1)
    rates = [cfg.optimizer.lr * schedule(iteration / length) for iteration in iterations]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5])


@pytest.mark.parametrize(
    ("config", "epochs", "drop"),
    [
        ("dino/dino_r50_4scale_12ep", 12, 11),
        ("dino/dino_r50_5scale_12ep", 12, 11),
        ("dab_detr/dab_deformable_detr_r50_300q_50ep", 50, 40),
        ("dab_detr/dab_detr_r50_300q_50ep", 50, 40),
        ("conditional_detr/conditional_detr_r50_300q_50ep", 50, 40),
        ("smca/smca_r50_300q_50ep", 50, 40),
        ("sam_detr/sam_detr_dc5_r50_300q_12ep", 12, 10),
        ("sam_detr/sam_detr_smca_multi_scale_r50_300q_50ep", 50, 40),
    ],
)
def test_recipe_of_two_rates(config, epochs, drop):
    """Conditional DETR, SMCA, DAB-DETR and DINO: half of Deformable DETR's rate, no third one."""
    cfg = load(ROOT / "configs" / f"{config}.py")
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 1e-4)
    assert dict(cfg.optimizer.params.lr_factors) == {"backbone": 0.1}
    assert (cfg.train.epochs, cfg.train.clip_grad_norm) == (epochs, 0.1)
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule((drop - 0.01) / epochs) == 1
    assert schedule(drop / epochs) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("config", "values"),
    [  # queries, top k, dropout, epsilon, temperature, offset, class weight
        ("dino/dino_r50_4scale_12ep", (900, 300, 0.0, 1e-3, 20, 0, 1)),
        ("dino/dino_r50_5scale_12ep", (900, 300, 0.0, 1e-3, 20, 0, 1)),
        ("dab_detr/dab_deformable_detr_r50_300q_50ep", (300, 300, 0.0, 1e-3, 10000, -0.5, 1)),
        ("dab_detr/dab_detr_r50_300q_50ep", (300, 300, 0.0, 1e-3, 20, 0, 1)),
        ("conditional_detr/conditional_detr_r50_300q_50ep", (300, 100, 0.1, 1e-5, 10000, 0, 2)),
        ("smca/smca_r50_300q_50ep", (300, 300, 0.1, 1e-5, 10000, 0, 2)),
        ("sam_detr/sam_detr_r50_300q_12ep", (300, 100, 0.1, 1e-5, 10000, -0.5, 2)),
        ("sam_detr/sam_detr_multi_scale_r50_300q_50ep", (300, 100, 0.1, 1e-5, 10000, -0.5, 2)),
        ("detr/detr_r50_100q_50ep", (100, 100, 0.1, 1e-5, 10000, 0, 1)),
    ],
)
def test_what_sets_the_methods_apart(config, values):
    model = load(ROOT / "configs" / f"{config}.py").model
    position = model.neck.position
    assert values == (
        model.num_queries,
        model.postprocess.top_k,
        model.dropout,
        model.decoder.epsilon,
        position.temperature,
        position.offset,
        model.criterion.terms.o2o.losses["class"].weight,
    )
    assert model.feedforward_dim == 2048
    costs = [model.criterion.terms.o2o.assigner[f"{x}_cost"] for x in ("class", "l1", "giou")]
    assert costs == [1 if config.startswith("detr/") else 2, 5, 2]


def flatten(node, prefix=""):
    """Every value of a config by its key."""
    if not isinstance(node, (dict, list)):
        return {prefix: node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    parts = [flatten(value, f"{prefix}.{key}" if prefix else f"{key}") for key, value in items]
    return {key: value for part in parts for key, value in part.items()}


@pytest.mark.parametrize("config", PLAIN)
def test_a_row_of_the_family_differs_by_mixed_supervision_alone(config):
    plain, mixed = (
        OmegaConf.to_container(load(ROOT / name), resolve=False)
        for name in (config, config.replace(f"{FAMILY}/", f"{FAMILY}/ms_detr_"))
    )
    plain, mixed = flatten(plain), flatten(mixed)
    none = object()
    differing = {k for k in plain | mixed if plain.get(k, none) != mixed.get(k, none)}
    allowed = tuple(f"model.{key}" for key in MIXED)
    unexpected = {key for key in differing if not key.startswith(allowed)}
    assert unexpected == {"train.output_dir"}
    assert any(key.startswith("model.criterion.terms.o2m.") for key in differing)
    assert plain["model.num_queries"] == 48
    weights = [mixed[f"model.criterion.terms.{name}.weight"] for name in ("o2m", "o2o")]
    assert weights[0] == 0.5 * weights[1]
    iou_aware = config.endswith(("ia_bce.py", "varifocal.py", "align.py", "co_dino.py"))
    assert plain["model.criterion.terms.o2o.losses.class.weight"] == (1.0 if iou_aware else 2.0)


@pytest.mark.parametrize("method", ["detr", "conditional", "dab", "smca", "sam", "sam_smca"])
def test_small_single_scale_models_read_stride_8(method):
    model = instantiate(load(ROOT / FAMILY / f"{method}.py").model)
    (name,) = model.neck.in_channels
    assert model.backbone.output_shape()[name].stride == 8


def test_the_family_has_both_files_of_every_method():
    rows = {c for c in CONFIGS if c.startswith(FAMILY)} - set(PLAIN)
    assert rows == {c.replace(f"{FAMILY}/", f"{FAMILY}/ms_detr_") for c in PLAIN}
    assert len(PLAIN) == 24


def test_the_baseline_is_the_one_of_the_design():
    model = load(ROOT / BASELINE).model
    assert list(model.decoder.layer.order) == ["self_attention", "cross_attention", "ffn"]
    terms = model.criterion.terms
    assert set(terms) - {"_target_"} == {"o2o", "encoder"}
    for term in (terms.o2o, terms.encoder):
        weights = [term.losses[name].weight for name in ("class", "bbox", "giou")]
        assert weights == [2.0, 5.0, 2.0]
        costs = [term.assigner[f"{name}_cost"] for name in ("class", "l1", "giou")]
        assert costs == [2.0, 5.0, 2.0]


def test_ms_detr_is_as_released():
    model = load(ROOT / MS_DETR).model
    assert list(model.decoder.layer.order) == ["cross_attention", "self_attention", "ffn"]
    terms = model.criterion.terms
    weights = {
        name: [terms[name].losses[loss].weight for loss in ("class", "bbox", "giou")]
        for name in ("o2o", "o2m", "encoder")
    }
    assert weights == {"o2o": [1, 5, 2], "o2m": [2, 5, 2], "encoder": [2, 5, 2]}
    assert [terms[name].weight for name in weights] == [1, 1, 1]
    assigner = instantiate(terms.o2m.assigner)
    assert (assigner.k, assigner.threshold, assigner.alpha, assigner.quota) == (6, 0.4, 0.3, 0.25)
    assert [terms.encoder.assigner[f"{x}_cost"] for x in ("class", "l1", "giou")] == [0, 5, 2]
    assert [terms.o2o.assigner[f"{x}_cost"] for x in ("class", "l1", "giou")] == [2, 5, 2]


def test_two_overrides_match_the_baselines_proposals_as_the_released_ms_detr_does():
    """The command of docs/methods.md: on anchors, class cost 0; nothing else changes."""
    text = (ROOT / "docs" / "methods.md").read_text()
    key = "model.criterion.terms.encoder.assigner."
    overrides = re.findall(rf"{re.escape(key)}\S+=\S+", text)
    assert [override.removeprefix(key).split("=")[0] for override in overrides] == [
        "_target_",
        "class_cost",
    ]
    plain, changed = (load(ROOT / BASELINE, x).model for x in ([], overrides))
    term = instantiate(changed.criterion.terms.encoder)
    released = instantiate(load(ROOT / MS_DETR).model.criterion.terms.encoder)
    assert type(term.assigner) is type(released.assigner) is AnchorHungarianAssigner
    assert vars(term.assigner) == vars(released.assigner)
    rng = np.random.default_rng(0)
    images = make_images(rng, (3, 0, 2))
    made, targets = make_predictions(rng, images, 9, layers=1), make_targets(images)
    cost = term.assigner.host_costs(made, targets)
    for b, image in enumerate(images):
        anchors, boxes = made.anchors[b].numpy(), image["boxes"].numpy()
        labels = np.zeros(len(boxes), int)
        logits = made.logits[0, b].numpy()
        expected = matching_cost(logits, anchors, labels, boxes, (0.0, 5.0, 2.0))
        np.testing.assert_allclose(cost[0, b, : len(boxes)], expected, atol=1e-9)
    plain.criterion.terms.encoder.assigner = changed.criterion.terms.encoder.assigner
    assert plain == changed


def test_the_backbone_strides_in_the_3x3():
    with torch.device("meta"):
        backbone = instantiate(load(ROOT / MS_DETR).model.backbone)
    first = backbone.res3[0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))
    assert {name: s.stride for name, s in backbone.output_shape().items()} == {
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }


@pytest.mark.parametrize("config", ["dino/dino_", "ms_detr/ms_detr_dino_"])
def test_five_scales_add_the_map_of_stride_4(config):
    four, five = (
        load(ROOT / "configs" / f"{config}r50_{scales}scale_12ep.py") for scales in (4, 5)
    )
    assert dict(five.model.neck.in_channels) == dict(res2=256, res3=512, res4=1024, res5=2048)
    assert list(five.model.backbone.out_features) == ["res2", "res3", "res4", "res5"]
    assert (four.model.neck.num_levels, five.model.neck.num_levels) == (4, 5)
    attention = five.model.decoder.layer.cross_attention.attention
    assert (attention.num_levels, attention.num_points) == (5, 4)
    for key in ("backbone", "neck"):
        five.model[key] = four.model[key]
    five.train.output_dir = four.train.output_dir
    assert five == four


def test_one_key_switches_masks_on():
    for value in (False, True):
        cfg = load(ROOT / MS_DETR, [f"dataloader.masks={str(value).lower()}"])
        data = cfg.dataloader
        loaders = (data.train, data.test)
        nodes = [*(x.dataset for x in loaders), *(x.mapper for x in loaders), data.evaluator]
        assert [node.masks for node in nodes] == [value] * 5
        assert instantiate(data.train.mapper).masks is value
    assert load(ROOT / MS_DETR).dataloader.masks is False


@pytest.mark.parametrize(
    "config",
    [BASELINE, "configs/dino/dino_r50_4scale_12ep.py", "configs/demo/family/ms_detr_dn.py"],
)
def test_one_key_leaves_padding_out(config):
    for value in (False, True):
        overrides = [f"model.neck.ignore_padding={str(value).lower()}"] if value else []
        with torch.device("meta"):
            model = instantiate(load(ROOT / config, overrides).model)
        initializer = model.query_initializer
        initializer = getattr(initializer, "initializer", initializer)
        assert model.neck.ignore_padding is initializer.ignore_padding is value


def test_large_scale_jitter_differs_in_the_augmentation_alone():
    plain, jitter = coco(masks=True), coco_lsj()
    assert jitter.train.mapper.augmentations != plain.train.mapper.augmentations
    names = [type(one).__name__ for one in instantiate(jitter.train.mapper.augmentations)]
    assert names == ["RandomFlip", "ResizeScale", "FixedSizeCrop"]
    jitter.train.mapper.augmentations = plain.train.mapper.augmentations
    assert jitter == plain


@pytest.mark.parametrize("config", [c for c in CONFIGS if "_lsj_" in c])
def test_jitter_of_co_dino(config):
    """As published (facts): squares of 1024 with grey 114, in tests too, and pasted objects."""
    data = load(ROOT / config).dataloader
    *_, fit = instantiate(data.train.mapper.augmentations)
    resize, pad = instantiate(data.test.mapper.augmentations)
    assert (fit.crop_size, fit.pad_value) == ((1024, 1024), 114)
    assert (resize.short_edge_length, resize.max_size) == ((1024, 1024), 1024)
    assert (pad.size, pad.pad_value) == (1024, 114)
    paste = instantiate(data.train.copy_paste)
    assert (paste.max_objects, paste.masks) == (100, False)
    assert instantiate(data.train.mapper).masks and data.train.dataset.masks
    assert not (data.test.dataset.masks or data.evaluator.masks)
    assert coco().train.copy_paste is None
