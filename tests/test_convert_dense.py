"""Checkpoints of detectors with one feature map, and of those with learned anchors."""

import pytest
import torch

from ms_detr.convert import (
    COCO_IDS,
    DENOISING_LABELS,
    convert_state_dict,
    recognise,
    revert_state_dict,
)

from . import published_dense as published
from .test_convert import assert_same, make_model

# Layout, config, the published tensors and, where another source tells it, how many they are.
CHECKPOINTS = {
    "detr": ("detr/detr_r50_100q_50ep", published.detr, 458),
    "conditional-detr": (
        "conditional_detr/conditional_detr_r50_300q_50ep",
        published.conditional_detr,
        564,
    ),
    "smca-detr": ("smca/smca_r50_300q_50ep", published.smca_detr, 500),
    "dab-detr": ("dab_detr/dab_detr_r50_300q_50ep", published.dab_detr, 590),
    "dn-detr": ("dn_detr/dn_detr_r50_300q_50ep", lambda: published.dab_detr(labels=True), 591),
    "dab-deformable-detr": (
        "dab_detr/dab_deformable_detr_r50_300q_50ep",
        published.dab_deformable_detr,
        None,
    ),
    "dn-deformable-detr": (
        "dn_detr/dn_dab_deformable_detr_r50_300q_50ep",
        lambda: published.dab_deformable_detr(labels=True),
        None,
    ),
}


def assert_fits(config, classes, converted, *overrides):
    """Names and shapes, none left over."""
    with torch.device("meta"):
        own = make_model(config, classes, *overrides).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}


@pytest.mark.parametrize("layout", CHECKPOINTS)
def test_every_tensor_finds_its_place_and_the_way_back(layout):
    config, make, count = CHECKPOINTS[layout]
    state = make()
    assert len(state) == (count or len(state))
    converted = convert_state_dict(state, layout)
    assert_fits(config, 92 if layout == "smca-detr" else 91, converted)
    assert_same(revert_state_dict(converted, layout), state)


@pytest.mark.parametrize("groups", [1, 11])
def test_conditional_and_group_detr_of_detrex(groups):
    state = published.detrex_conditional_detr(300 * groups)
    layout = "group-detr" if groups > 1 else "detrex-conditional-detr"
    converted = convert_state_dict(state, layout)
    config = (
        "group_detr/group_conditional_detr_r50_300q_50ep"
        if groups > 1
        else "conditional_detr/conditional_detr_r50_300q_50ep"
    )
    assert_fits(config, 80, converted)
    assert_same(revert_state_dict(converted, layout), state)
    official = convert_state_dict(published.conditional_detr(300 * groups, 80), "conditional-detr")
    assert_same(converted, official)


def test_nothing_is_the_last_row_of_detr():
    """91 ids, no-object behind them: of 80 classes it is the 81st row."""
    state = published.detr()
    converted = convert_state_dict(state, "detr", classes="coco91")
    for key in ("weight", "bias"):
        expected = state[f"class_embed.{key}"][torch.tensor([*COCO_IDS, 91])]
        assert torch.equal(converted[f"decoder.class_heads.3.{key}"], expected)
    assert_fits("detr/detr_r50_100q_50ep", 80, converted)
    with pytest.raises(ValueError, match="COCO's 80 rows"):
        revert_state_dict(converted, "detr")
    with pytest.raises(ValueError, match="has 6 rows, not 92: convert with classes 'keep'"):
        convert_state_dict(published.detr(classes=5), "detr", classes="coco91")


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [
        ("r50_300q_12ep", {}, 738),
        ("dc5_r50_300q_12ep", {}, 738),
        ("r50_300q_50ep", {"norm": False}, 736),
        ("multi_scale_r50_300q_50ep", {"levels": 3}, 771),
    ],
)
def test_flavours_of_sam_detr(kind, options, count, modulated):
    state = published.sam_detr(modulated=modulated, **options)
    assert len(state) == count
    assert recognise(state) == "sam-detr"
    converted = convert_state_dict(state, "sam-detr")
    assert_fits(f"sam_detr/sam_detr_{'smca_' if modulated else ''}{kind}", 91, converted)
    assert_same(revert_state_dict(converted, "sam-detr"), state)


def test_parts_of_sam_detr_by_what_they_make():
    state = published.sam_detr()
    converted = convert_state_dict(state, "sam-detr", classes="coco91")
    ours, theirs = "decoder.layers.2.sublayers.cross_attention.", "transformer.decoder.layers.2."
    for mine, name in {
        "position_query.2": "ca_qpos_sine_proj.layers.1",
        "position_key.0": "ca_kpos_sine_proj.layers.0",
        "aligner.predictor.0": "point1.0",
        "aligner.predictor.9": "point2.6",
        "aligner.content_gate": "attn1",
        "aligner.position_gate": "attn2",
        "norm": "norm2",
    }.items():
        assert torch.equal(converted[f"{ours}{mine}.weight"], state[f"{theirs}{name}.weight"])
    assert torch.equal(converted["query_initializer.boxes"], state["query_embed.weight"])
    rows = state["class_embed.4.bias"][torch.tensor(COCO_IDS)]
    assert torch.equal(converted["decoder.class_heads.4.bias"], rows)
    other = dict(state)
    other["transformer.decoder.bbox_embed.1.layers.0.bias"] = torch.zeros(256)
    with pytest.raises(ValueError, match="is expected to repeat bbox_embed"):
        convert_state_dict(other, "sam-detr")


@pytest.mark.parametrize(("scales", "count"), [(0, 488), (1, 500), (3, 500)])
def test_scales_of_smca(scales, count):
    state = published.smca_detr(scales)
    assert len(state) == count
    converted = convert_state_dict(state, "smca-detr")
    override = f"model.decoder.layer.cross_attention.scales={scales}"
    assert_fits("smca/smca_r50_300q_50ep", 92, converted, override)
    assert_same(revert_state_dict(converted, "smca-detr"), state)


def test_the_last_row_of_smca_is_no_class():
    """91 ids and one row that nothing is trained for."""
    state = published.smca_detr()
    converted = convert_state_dict(state, "smca-detr", classes="coco91")
    for key in ("weight", "bias"):
        expected = state[f"class_embed.{key}"][torch.tensor(COCO_IDS)]
        assert torch.equal(converted[f"decoder.class_heads.5.{key}"], expected)
    assert_fits("smca/smca_r50_300q_50ep", 80, converted)
    with pytest.raises(ValueError, match="has 91 rows, not 92: convert with classes 'keep'"):
        convert_state_dict(published.smca_detr(classes=91), "smca-detr", classes="coco91")


def test_parts_of_smca_by_what_they_make():
    state = published.smca_detr()
    converted = convert_state_dict(state, "smca-detr")
    theirs = "transformer.decoder.layers."
    for ours, name in {
        "query_initializer.norms.3.weight": "3.norm4.weight",
        "query_initializer.center.4.bias": "0.point1.layers.2.bias",
        "decoder.layers.2.sublayers.cross_attention.gaussians.0.offset.weight": "2.point2.weight",
        "decoder.layers.2.sublayers.cross_attention.gaussians.0.scale.bias": "2.point3.bias",
    }.items():
        assert torch.equal(converted[ours], state[f"{theirs}{name}"])


def test_norms_by_what_they_follow():
    """In the order of computing, unlike in Deformable DETR."""
    state = published.detr()
    converted = convert_state_dict(state, "detr")
    for k, sublayer in enumerate(("self_attention", "cross_attention", "ffn"), 1):
        assert torch.equal(
            converted[f"decoder.layers.2.sublayers.{sublayer}.norm.weight"],
            state[f"transformer.decoder.layers.2.norm{k}.weight"],
        )


def test_projections_by_what_they_compare():
    """The first layer alone adds positions; the sine embeddings have a projection of their own."""
    state = published.conditional_detr()
    converted = convert_state_dict(state, "conditional-detr")
    ours, theirs = "decoder.layers.0.sublayers.", "transformer.decoder.layers.0."
    for mine, name in {
        "self_attention.position_query": "sa_qpos_proj",
        "self_attention.content_key": "sa_kcontent_proj",
        "self_attention.output": "self_attn.out_proj",
        "cross_attention.first_query": "ca_qpos_proj",
        "cross_attention.position_query": "ca_qpos_sine_proj",
        "cross_attention.position_key": "ca_kpos_proj",
        "cross_attention.output": "cross_attn.out_proj",
    }.items():
        assert torch.equal(converted[f"{ours}{mine}.weight"], state[f"{theirs}{name}.weight"])
    assert torch.equal(
        converted["query_initializer.point.2.bias"],
        state["transformer.decoder.ref_point_head.layers.1.bias"],
    )


def test_anchors_are_centers_and_sizes():
    state = published.dab_detr()
    converted = convert_state_dict(state, "dab-detr")
    anchors = state["refpoint_embed.weight"]
    assert torch.equal(converted["query_initializer.anchors.centers"], anchors[:, :2])
    assert torch.equal(converted["query_initializer.anchors.sizes"], anchors[:, 2:])


def test_queries_of_dn_detr_start_with_the_label_of_no_class():
    """The last row of the embedding, and 0 for "not denoising"."""
    state = published.dab_detr(labels=True)
    converted = convert_state_dict(state, "dn-detr", classes="coco91")
    content = converted["query_initializer.initializer.content"]
    assert torch.equal(content[0, :-1], state["label_enc.weight"][91]) and content[0, -1] == 0
    rows = torch.tensor([*COCO_IDS, 91])
    assert torch.equal(converted[DENOISING_LABELS], state["label_enc.weight"][rows])
    # The way back takes the content that was trained on.
    kept = convert_state_dict(state, "dn-detr")
    kept["query_initializer.initializer.content"] = torch.arange(256.0)[None]
    back = revert_state_dict(kept, "dn-detr")["label_enc.weight"]
    assert torch.equal(back[91], torch.arange(255.0))
    assert torch.equal(back[:91], state["label_enc.weight"][:91])


def test_one_head_for_all_layers():
    converted = convert_state_dict(published.conditional_detr(), "conditional-detr")
    converted["decoder.box_heads.4.0.bias"] = torch.zeros(256)
    with pytest.raises(ValueError, match=r"box_heads\.4\.0\.bias differs from .*one head for all"):
        revert_state_dict(converted, "conditional-detr")
