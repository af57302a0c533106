import re

import pytest
import torch
import torchvision
from detectron2.config import instantiate
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ms_detr.backbones import resnet
from ms_detr.config import load
from ms_detr.convert import (
    COCO_IDS,
    DENOISING_LABELS,
    LAYOUTS,
    convert_state_dict,
    recognise,
    revert_state_dict,
)
from ms_detr.engine.state import load_strictly

from . import published, published_co_detr, published_dense
from .conftest import ROOT
from .published import TINY, small

# Layout, config, extra options of the checkpoint, entries as published (a checkpoint of each).
CHECKPOINTS = {
    "ms_detr": ("ms-detr", "ms_detr/ms_detr_r50_300q_12ep", {"aux_ffn": True}, 666),
    "ms_detr_pp": (
        "ms-detr",
        "ms_detr/ms_detr_pp_r50_300q_12ep",
        {"aux_ffn": True, "mixed": 300},
        667,
    ),
    "ms_detr_pp_900": (
        "ms-detr",
        "ms_detr/ms_detr_pp_r50_900q_12ep",
        {"aux_ffn": True, "mixed": 900},
        667,
    ),
    "ms_detr_a": ("ms-detr", "ms_detr/ms_detr_a_r50_300q_12ep", {"separate": True}, 678),
    "baseline": ("deformable-detr", "deformable_detr/deformable_detr_r50_300q_12ep", {}, 630),
    "baseline_pp": (
        "deformable-detr",
        "deformable_detr/deformable_detr_pp_r50_300q_12ep",
        {"mixed": 300},
        631,
    ),
}


def make_model(config, classes, *overrides):
    torch.manual_seed(0)
    overrides = [f"model.num_classes={classes}", *overrides]
    return instantiate(load(ROOT / "configs" / f"{config}.py", overrides).model)


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_tensor_finds_its_place_and_the_way_back(name):
    layout, config, options, count = CHECKPOINTS[name]
    state = published.two_stage(**options)
    assert len(state) == count
    converted = convert_state_dict(state, layout)
    load_strictly(make_model(config, 91), converted, name)  # names and shapes, none left over
    assert_same(revert_state_dict(converted, layout), state)


def test_dino():
    """And the way back."""
    state = published.dino()
    converted = convert_state_dict(state, "dino")
    assert_same(revert_state_dict(converted, "dino"), state)
    model = make_model("dino/dino_r50_4scale_12ep", 91)
    load_strictly(model, converted, "dino")
    start = model.query_initializer
    for ours, theirs in (
        (start.content, "transformer.tgt_embed.weight"),
        (start.class_head.bias, "transformer.enc_out_class_embed.bias"),
        (start.box_head[4].weight, "transformer.enc_out_bbox_embed.layers.2.weight"),
        (start.position.mlp[2].bias, "transformer.decoder.ref_point_head.layers.1.bias"),
        (model.decoder.output_norm.weight, "transformer.decoder.norm.weight"),
        (model.decoder.box_heads[3][2].bias, "bbox_embed.3.layers.1.bias"),
        (model.groups["denoising"].embedding.weight, "label_enc.weight"),
    ):
        assert torch.equal(ours, state[theirs]), theirs


def test_dino_with_five_scales():
    """The fourth level is the backbone's there, the fifth made from it."""
    state = published.dino(channels=(256, 512, 1024, 2048))
    converted = convert_state_dict(state, "dino")
    assert_same(revert_state_dict(converted, "dino"), state)
    model = make_model("dino/dino_r50_5scale_12ep", 91)
    load_strictly(model, converted, "dino")
    for ours, theirs in (
        (model.neck.projections[3][0].weight, "input_proj.3.0.weight"),
        (model.neck.extra_levels[0][0].weight, "input_proj.4.0.weight"),
        (model.neck.extra_levels[0][1].bias, "input_proj.4.1.bias"),
    ):
        assert torch.equal(ours, state[theirs]), theirs


@pytest.mark.parametrize("name", ["two_stage", "one_stage", "refined"])
def test_detrex(name):
    """And the way back; its heads have no other rows than COCO's 80 classes."""
    if name == "two_stage":
        official = published.two_stage(classes=80, ffn=1024)
        config = "deformable_detr_r50_300q_12ep"
    else:
        official = published.one_stage(refined=name == "refined", classes=80, ffn=1024)
        config = f"deformable_detr_{name}_r50_300q_12ep"
    state = published.detrex(official)
    assert len(state) == len(official) and not state.keys() & {"input_proj.0.0.weight"}
    converted = convert_state_dict(state, "detrex")
    assert_same(converted, convert_state_dict(official, "deformable-detr"))
    model = make_model(f"deformable_detr/{config}", 80, "model.feedforward_dim=1024")
    load_strictly(model, converted, name)
    assert_same(revert_state_dict(converted, "detrex"), state)


def test_detrex_dino():
    state = published.detrex_dino(classes=80)
    converted = convert_state_dict(state, "detrex-dino")
    assert_same(revert_state_dict(converted, "detrex-dino"), state)
    model = make_model("dino/dino_r50_4scale_12ep", 80, "model.decoder.share_heads=false")
    load_strictly(model, converted, "detrex-dino")
    labels = model.groups["denoising"].embedding.weight
    assert torch.equal(labels[:80], state["label_enc.weight"]) and not labels[80].any()
    for ours, theirs in (
        (model.query_initializer.class_head.bias, "class_embed.6.bias"),
        (model.decoder.class_heads[5].bias, "class_embed.5.bias"),
        (model.decoder.layers[2].sublayers["self_attention"].norm.bias, "norms.0.bias"),
        (model.decoder.layers[2].sublayers["cross_attention"].norm.bias, "norms.1.bias"),
    ):
        where = "transformer.decoder.layers.2." if theirs.startswith("norms") else ""
        assert torch.equal(ours, state[f"{where}{theirs}"]), theirs
    with pytest.raises(ValueError, match="has 80 rows, not 91: convert with classes 'keep'"):
        convert_state_dict(state, "detrex-dino", classes="coco91")
    # One head for all layers: the model refuses heads that differ.
    with pytest.raises(ValueError, match="class_heads"):
        load_strictly(make_model("dino/dino_r50_4scale_12ep", 80), converted, "detrex-dino")


@pytest.mark.parametrize(
    ("layout", "prefix"), [("h-detr", "backbone.0.body."), ("dino", "backbone.0.")]
)
def test_a_swin_in_a_detector(layout, prefix):
    """Its body is the published Swin's; of each map that is read there is a norm."""
    pytest.importorskip("timm")
    with torch.device("meta"):
        model = make_model("deformable_detr/deformable_detr_pp_swin_t_300q_12ep", 91)
    expected = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    state = {}
    for name, tensor in expected.items():
        theirs = name.removeprefix("backbone.").removeprefix("body.")
        theirs = re.sub(r"norms\.res(\d)", lambda m: f"norm{int(m[1]) - 2}", theirs)
        theirs = re.sub(r"layers_(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", theirs)
        state[prefix + theirs.replace("layers_", "layers.")] = tensor
    sizes = {"backbone": False, "dim": 8, "ffn": 8, "layers": 2}
    rest = published.dino(5, **sizes) if layout == "dino" else published.two_stage(**sizes)
    buffer = {f"{prefix}layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    converted = convert_state_dict(state | rest | buffer, layout)
    found = {k: v for k, v in converted.items() if k.startswith("backbone.")}
    assert found.keys() == expected.keys()
    assert all(found[name] is expected[name] for name in expected)
    if layout == "dino":  # all but the buffer comes back
        assert revert_state_dict(converted, layout).keys() == (state | rest).keys()


def test_coco_rows_of_dino():
    """Its proposals have classes, not an objectness."""
    state = published.dino(queries=5, backbone=False, dim=8, ffn=8, layers=2)
    converted = convert_state_dict(state, "dino", classes="coco91")
    for ours, theirs in (
        ("decoder.class_heads.1.weight", "class_embed.1.weight"),
        ("query_initializer.class_head.weight", "transformer.enc_out_class_embed.weight"),
    ):
        assert torch.equal(converted[ours], state[theirs][torch.tensor(COCO_IDS)])
    rows = torch.tensor([*COCO_IDS, 91])  # the last one stands for no class
    assert torch.equal(converted[DENOISING_LABELS], state["label_enc.weight"][rows])


@pytest.mark.parametrize("refined", [True, False])
def test_one_stage(refined):
    state = published.one_stage(refined=refined)
    converted = convert_state_dict(state, "deformable-detr")
    config = "refined" if refined else "one_stage"
    model = make_model(f"deformable_detr/deformable_detr_{config}_r50_300q_12ep", 91)
    load_strictly(model, converted, config)
    queries = state["query_embed.weight"]
    assert torch.equal(model.query_initializer.position, queries[:, :256])
    assert torch.equal(model.query_initializer.content, queries[:, 256:])
    # The decoder has box heads of its own where boxes are refined, and no class heads.
    assert_same(revert_state_dict(converted, "deformable-detr"), state)


def test_norms_and_feedforwards_by_what_they_follow():
    """norm1 follows cross-attention and norm2 self-attention in both orders; 3 and 4 the FFNs."""
    state = small(aux_ffn=True)
    converted = convert_state_dict(state, "ms-detr")
    ours, theirs = "decoder.layers.1.", "transformer.decoder.layers.1."
    for mine, name in {
        "sublayers.cross_attention.norm": "norm1",
        "sublayers.self_attention.norm": "norm2",
        "sublayers.ffn.norm": "norm3",
        "taps.cross_attention.ffn.norm": "norm4",
        "sublayers.ffn.linear1": "linear1",
        "sublayers.ffn.linear2": "linear2",
        "taps.cross_attention.ffn.linear1": "linear3",
        "taps.cross_attention.ffn.linear2": "linear4",
    }.items():
        assert torch.equal(converted[f"{ours}{mine}.weight"], state[f"{theirs}{name}.weight"])
    assert torch.equal(
        converted["query_initializer.box_head.4.weight"], state["bbox_embed.2.layers.2.weight"]
    )
    assert torch.equal(converted["decoder.box_heads.1.2.bias"], state["bbox_embed.1.layers.1.bias"])


def test_coco_rows():
    things = sorted(category["id"] for category in COCO_CATEGORIES if category["isthing"])
    assert list(COCO_IDS) == things
    state = small(separate=True)
    converted = convert_state_dict(state, "ms-detr", classes="coco91")
    for key in ("weight", "bias"):
        for ours, theirs in (
            ("decoder.class_heads", "class_embed"),
            ("decoder.tap_class_heads.ffn", "class_embed_o2m"),
        ):
            expected = torch.stack([state[f"{theirs}.1.{key}"][i] for i in things])
            assert torch.equal(converted[f"{ours}.1.{key}"], expected)
        # Row 0 is the objectness that ranks the proposals.
        expected = state[f"class_embed.2.{key}"][:80]
        assert torch.equal(converted[f"query_initializer.class_head.{key}"], expected)
    with pytest.raises(ValueError, match="80 rows; published ones have 91"):
        revert_state_dict(converted)


def test_h_detr_leaves_its_training_queries():
    state = small(mixed=1800)
    converted = convert_state_dict(state, "h-detr")
    assert torch.equal(converted["query_initializer.content"], state["query_embed.weight"][:300])
    with pytest.raises(ValueError, match="no way back to h-detr: its last 1500 queries are gone"):
        revert_state_dict(converted, "h-detr")


def test_h_detr_keeps_its_training_queries():
    """For Hybrid's group, whose queries are rows behind the others."""
    state = published.two_stage(mixed=1800)
    converted = convert_state_dict(state, "h-detr", all_queries=True)
    model = make_model("hybrid_detr/hybrid_deformable_detr_pp_r50_300q_12ep", 91)
    load_strictly(model, converted, "h-detr")
    assert torch.equal(model.query_initializer.content, state["query_embed.weight"])
    assert_same(revert_state_dict(converted, "h-detr"), state)


OTHERS = {
    "deformable-detr": lambda: published.two_stage(mixed=300, **TINY),
    "h-detr": lambda: published.two_stage(mixed=1800, **TINY),
    "ms-detr": lambda: published.two_stage(aux_ffn=True, **TINY),
    "dino": lambda: published.dino(5, **TINY),
    "detrex": lambda: published.detrex(published.two_stage(**TINY)),
    "detrex-dino": lambda: published.detrex(
        published.dino(5, **TINY) | {"transformer.level_embeds": torch.zeros(4, 8)}
    ),
    "detr": published_dense.detr,
    "smca-detr": published_dense.smca_detr,
    "sam-detr": lambda: published_dense.sam_detr(levels=3),
    "conditional-detr": published_dense.conditional_detr,
    "dab-detr": published_dense.dab_detr,
    "dn-detr": lambda: published_dense.dab_detr(labels=True),
    "dab-deformable-detr": published_dense.dab_deformable_detr,
    "dn-deformable-detr": lambda: published_dense.dab_deformable_detr(labels=True),
    "detrex-conditional-detr": published_dense.detrex_conditional_detr,
    "co-detr": lambda: published_co_detr.co_detr(**TINY),
    "mmdet-co-dino": lambda: published_co_detr.co_detr(dino=True, port=True, **TINY),
    "torchvision": lambda: torchvision.models.resnet18(weights=None).state_dict(),
}


@pytest.mark.parametrize("layout", OTHERS)
def test_a_checkpoint_is_recognised_and_no_other_layout_takes_it(layout):
    state = OTHERS[layout]()
    assert recognise(state) == layout
    for other in LAYOUTS:
        same = LAYOUTS[other] is LAYOUTS[layout] or layout in LAYOUTS[other].takes
        if not same:
            with pytest.raises(ValueError, match=f"a checkpoint of {layout}, .* not of {other}"):
                convert_state_dict(state, other)


def test_our_own_names_are_no_published_ones():
    assert recognise(convert_state_dict(small(aux_ffn=True), "ms-detr")) is None


def test_torchvision():
    state = torchvision.models.resnet50(weights=None).state_dict()
    backbone = torch.nn.Module()
    backbone.backbone = resnet()
    load_strictly(backbone, convert_state_dict(state, "torchvision"), "torchvision")
    with pytest.raises(ValueError, match="no way back to torchvision"):
        revert_state_dict({}, "torchvision")


def test_what_is_unknown_is_named():
    state = small() | {"transformer.decoder.norm.weight": torch.zeros(1), "x.y": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"2 tensors are unknown in .* transformer\.decoder\.norm\.weight, x\.y"
    ):
        convert_state_dict(state, "deformable-detr")
    ours = convert_state_dict(small(aux_ffn=True), "ms-detr")
    with pytest.raises(ValueError, match="12 tensors have no place in deformable-detr: .*taps"):
        revert_state_dict(ours, "deformable-detr")


def test_of_many_unknown_tensors_some_are_named():
    state = {f"other.{i}": torch.ones(1) for i in range(300)}
    with pytest.raises(ValueError, match=r"300 tensors .*other\.0, .* and 290 more$") as error:
        convert_state_dict(state, "dino")
    assert len(str(error.value)) < 300


def test_queries_without_feature_levels():
    state = {"query_embed.weight": torch.ones(100, 256)}
    with pytest.raises(ValueError, match="learned queries, but no embedding of feature levels"):
        convert_state_dict(state, "deformable-detr")


def test_a_tensor_is_used_once():
    """Of two names for one place none is preferred in silence."""
    state = dino = published.dino(5, **TINY)
    swin = {f"backbone.0.{body}norm0.weight": torch.ones(2) for body in ("", "body.")}
    with pytest.raises(ValueError, match=r"norm0\.weight and .*norm0\.weight are both backbone\."):
        convert_state_dict(dino | swin, "dino")
    assert "backbone.norms.res2.weight" not in convert_state_dict(state, "dino")


def test_a_copy_stands_for_an_original_that_was_left_out():
    """Formats that store a shared tensor once choose between its names."""
    state = small()
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("bbox_embed.")}
    assert_same(convert_state_dict(rest, "ms-detr"), convert_state_dict(state, "ms-detr"))


def test_copies_have_to_be_copies():
    state = small()
    state["transformer.decoder.bbox_embed.1.layers.0.bias"] = torch.zeros(8)
    with pytest.raises(ValueError, match=r"expected to repeat bbox_embed\.1\.layers\.0\.bias"):
        convert_state_dict(state, "ms-detr")


def test_wrong_choices():
    with pytest.raises(ValueError, match="no layout 'mmdet'; there are ms-detr, deformable-detr"):
        convert_state_dict({}, "mmdet")
    with pytest.raises(ValueError, match="classes must be one of"):
        convert_state_dict(small(), "ms-detr", classes="coco80")
    with pytest.raises(ValueError, match="has 5 rows, not 91: convert with classes 'keep'"):
        convert_state_dict(small(classes=5), "ms-detr", classes="coco91")
