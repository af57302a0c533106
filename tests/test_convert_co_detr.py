"""Checkpoints of Co-DETR: names, shapes and numbers as published, and the way back."""

import functools
import hashlib
import re

import pytest
import torch
from detectron2.config import instantiate
from torch import nn
from torch.nn import functional as F

from ms_detr.auxiliary import Pyramid
from ms_detr.auxiliary.rpn import RPN
from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.convert import convert_state_dict, recognise, revert_state_dict
from ms_detr.engine import parameter_groups
from ms_detr.engine.state import load_strictly

from .conftest import ROOT
from .published import TINY
from .published_co_detr import co_detr

STEPS = "num_batches_tracked"
DEFORMABLE = "co_detr/co_deformable_detr_pp_r50_300q_12ep"
DINO = "co_detr/co_dino_r50_5scale_12ep"
ONE_COLUMN = "+model.groups.atss.encoding.scalar_embedding=true"


@functools.cache
def outline(config, *overrides):
    """A model without values."""
    cfg = load(ROOT / "configs" / f"{config}.py", overrides)
    with torch.device("meta"):
        return instantiate(cfg.model)


def plain(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith(STEPS)}


@pytest.mark.parametrize(
    ("dino", "count", "digest"),
    [
        (False, 676, "653c2f8cc2e8b9d6fe7e0abecccc20e12fbd4ab14cd26e65c5f00f03a281904c"),
        (True, 674, "82757b9cc3e03e60eeef9178723cb34c4ba2fd2c7ce50e45e55307631cfee67d"),
    ],
)
def test_names_and_shapes_are_the_released_ones(dino, count, digest):
    """Of the lists that the two released R50 models gave: sorted lines "name (shape)"."""
    state = co_detr(dino, shapes=True)
    assert len(state) == count
    lines = "\n".join(f"{name} {tuple(state[name].shape)}" for name in sorted(state))
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


@pytest.mark.parametrize(
    ("layout", "config", "overrides", "options"),
    [
        ("co-detr", DEFORMABLE, [], {}),
        (
            "co-detr",
            "co_detr/co_deformable_detr_pp_atss_r50_300q_12ep",
            [ONE_COLUMN],
            {"heads": 1},
        ),
        ("co-detr", DINO, [], {"dino": True}),
        ("mmdet-co-dino", DINO, [], {"dino": True, "port": True}),
    ],
)
def test_every_tensor_finds_its_place_in_the_model(layout, config, overrides, options):
    state = co_detr(shapes=True, **options)
    assert recognise(state) == layout
    converted = convert_state_dict(state, layout)
    load_strictly(outline(config, *overrides), converted, layout)
    back = revert_state_dict(converted, layout)
    shapes = {name: tensor.shape for name, tensor in plain(state).items()}
    assert {name: tensor.shape for name, tensor in back.items()} == shapes


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    ("layout", "dino"), [("co-detr", False), ("co-detr", True), ("mmdet-co-dino", True)]
)
def test_the_way_back_gives_the_same_tensors(layout, dino, heads):
    state = co_detr(dino, layout == "mmdet-co-dino", heads, **TINY)
    back = revert_state_dict(convert_state_dict(state, layout), layout)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("config", "trained", "used", "spare"),
    [(DEFORMABLE, 64_854_374, 47_594_380, 0), (DINO, 64_928_485, 48_044_300, 256)],
)
def test_as_many_parameters_as_released(config, trained, used, spare):
    """Trained, and used at inference; frozen norms, buffers here, are parameters there.

    The configs are as they stand. spare: denoising's row of a label that is never drawn.
    """
    model = outline(config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained + spare
    at_inference = sum(
        x.numel()
        for name, x in model.state_dict().items()
        if not name.startswith(("auxiliary.", "groups.")) and ".running_" not in name
    )
    assert at_inference == used


@pytest.mark.parametrize(
    ("config", "slow", "tensors", "fast", "spare"),
    [
        (DEFORMABLE, 24_022_016, 66, 40_832_358, 0),  # backbone and sampling offsets
        (DINO, 23_232_512, 42, 41_695_973, 256),  # the backbone
    ],
)
def test_as_many_parameters_a_learning_rate_as_released(config, slow, tensors, fast, spare):
    factors = load(ROOT / f"configs/{config}.py").optimizer.params.lr_factors
    base, tenth = parameter_groups(outline(config), 2e-4, factors)
    assert (base["lr"], tenth["lr"]) == (2e-4, pytest.approx(2e-5))
    assert sum(p.numel() for p in base["params"]) == fast + spare
    assert sum(p.numel() for p in tenth["params"]) == slow
    assert len(tenth["params"]) == tensors


def test_parts_by_what_they_do():
    state = co_detr(**TINY)
    converted = convert_state_dict(state, "co-detr")
    start = "query_head."
    for ours, theirs in {
        "neck.projections.1.0.weight": "neck.convs.1.conv.weight",
        "neck.extra_levels.0.1.bias": "neck.extra_convs.0.gn.bias",
        "query_initializer.content": f"{start}query_embedding.weight",
        "query_initializer.class_head.bias": f"{start}cls_branches.2.bias",
        "query_initializer.box_head.4.weight": f"{start}reg_branches.2.4.weight",
        "decoder.box_heads.1.2.bias": f"{start}reg_branches.1.2.bias",
        "query_initializer.query_norm.bias": f"{start}transformer.pos_trans_norm.bias",
        "groups.rcnn.encoding.box_projection.bias": f"{start}transformer.aux_pos_trans.0.bias",
        "groups.atss.encoding.feature_norm.bias": f"{start}transformer.pos_feats_norm.1.bias",
        "auxiliary.heads.atss.class_tower.1.bias": "bbox_head.0.cls_convs.0.gn.bias",
        "auxiliary.heads.atss.box_tower.0.weight": "bbox_head.0.reg_convs.0.conv.weight",
        "auxiliary.heads.atss.scales.3": "bbox_head.0.scales.3.scale",
        "auxiliary.heads.rcnn.box_layers.3.weight": "roi_head.0.bbox_head.shared_fcs.1.weight",
    }.items():
        assert torch.equal(converted[ours], state[theirs]), ours
    for number, head in enumerate(("rcnn", "atss")):
        embedding = converted[f"groups.{head}.encoding.head_embedding"]
        assert torch.equal(embedding, state[f"{start}transformer.head_pos_embed.weight"][[number]])
    deltas = state["roi_head.0.bbox_head.fc_reg.weight"]
    assert torch.equal(converted["auxiliary.heads.rcnn.bbox_pred.weight"][3, 2], deltas[4 * 3 + 2])


def test_a_sole_head_is_number_0():
    state = co_detr(dino=True, heads=1, **TINY)
    converted = convert_state_dict(state, "co-detr")
    bias = converted["groups.atss.encoding.box_norm.bias"]
    assert torch.equal(bias, state["query_head.transformer.aux_pos_trans_norm.0.bias"])
    content = state["query_head.transformer.query_embed.weight"]
    assert torch.equal(converted["query_initializer.content"], content)


def test_head_embeddings_of_all_channels():
    """As the released code's authors advise, and our configs have them."""
    name = "query_head.transformer.head_pos_embed.weight"
    state = co_detr(**TINY) | {name: torch.rand(2, 8)}
    converted = convert_state_dict(state, "co-detr")
    assert torch.equal(converted["groups.atss.encoding.head_embedding"], state[name][1:])
    assert torch.equal(revert_state_dict(converted, "co-detr")[name], state[name])


def test_anchors_keep_their_predictions():
    """Biases that tell the anchor's ratio and size, at the channels where mmdetection has them."""
    ratios, sizes = (0.5, 1.0, 2.0), (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
    state = co_detr(**TINY)
    anchors = [(ratio, size) for ratio in ratios for size in sizes]
    state["rpn_head.rpn_cls.bias"] = torch.tensor([r + 10 * s for r, s in anchors])
    state["rpn_head.rpn_reg.bias"] = torch.tensor(
        [r + 10 * s + 100 * k for r, s in anchors for k in range(4)]
    )
    for name in ("rpn_head.rpn_cls.weight", "rpn_head.rpn_reg.weight"):
        state[name] = torch.zeros_like(state[name])
    start = "auxiliary.heads.rcnn.rpn."
    converted = {
        name.removeprefix(start): tensor
        for name, tensor in convert_state_dict(state, "co-detr").items()
        if name.startswith(start)
    }
    rpn = RPN(8, num_levels=1)
    load_strictly(rpn, converted, "co-detr")
    pyramid = Pyramid((torch.rand(1, 8, 2, 3),), (1,), torch.tensor([[3.0, 2.0]]))
    with torch.no_grad():
        predicted = rpn.predict(pyramid)
    width, height = (predicted.anchors[0][:, 2:] - predicted.anchors[0][:, :2]).unbind(1)
    expected = height / width + 10 * (height * width).sqrt()
    torch.testing.assert_close(predicted.logits[0][0], expected)
    channels = 100 * torch.arange(4.0)
    torch.testing.assert_close(predicted.deltas[0][0], expected[:, None] + channels)


# Names of our Swin Transformers' parts as others have them, in the order of replacing.
OWN = {
    r"^backbone\.(body\.)?": "backbone.",
    r"norms\.res(\d)": lambda m: f"norm{int(m[1]) - 2}",
    r"layers_(\d)\.downsample": lambda m: f"layers.{int(m[1]) - 1}.downsample",
    r"layers_": "layers.",
}
MMDET = {
    **OWN,
    r"layers\.(?=\d\.(?:blocks|downsample))": "stages.",
    r"patch_embed\.proj": "patch_embed.projection",
    r"attn\.": "attn.w_msa.",
    r"mlp\.fc1": "ffn.layers.0.0",
    r"mlp\.fc2": "ffn.layers.1",
}


def renamed(name, replacements):
    for pattern, replacement in replacements.items():
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize(
    ("layout", "names", "known"),
    [
        ("co-detr", OWN, "backbone.layers.0.downsample.norm.bias"),
        ("mmdet-co-dino", MMDET, "backbone.stages.2.blocks.1.attn.w_msa.qkv.weight"),
    ],
)
def test_a_swin(layout, names, known):
    pytest.importorskip("timm")
    model = outline("co_detr/co_deformable_detr_pp_swin_t_300q_12ep")
    own = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    swin = {renamed(name, names): tensor for name, tensor in own.items()}
    assert swin.keys() >= {known, "backbone.norm3.bias"}
    ported = layout == "mmdet-co-dino"
    state = co_detr(dino=ported, port=ported, **TINY) | swin
    buffer = {f"{known.rpartition('.')[0]}.relative_position_index": torch.ones(1)}
    converted = convert_state_dict(state | buffer, layout)
    found = {k: v.shape for k, v in converted.items() if k.startswith("backbone.")}
    assert found == {name: tensor.shape for name, tensor in own.items()}
    assert revert_state_dict(converted, layout).keys() == state.keys()


MERGING = {"norm.weight": (12,), "norm.bias": (12,), "reduction.weight": (6, 12)}


def test_patches_are_merged_as_by_mmdetection():
    """Which takes four neighbours by `torch.nn.Unfold`: all of one channel after another."""
    merging = pytest.importorskip("timm.models.swin_transformer").PatchMerging
    names = {part: f"backbone.stages.0.downsample.{part}" for part in MERGING}
    state = co_detr(dino=True, port=True, **TINY)
    swin = {name: torch.rand(MERGING[part]) for part, name in names.items()}
    converted = convert_state_dict(state | swin, "mmdet-co-dino")
    layer = merging(3)
    start = "backbone.body.layers_1.downsample."
    layer.load_state_dict({part: converted[f"{start}{part}"] for part in MERGING})
    image = torch.rand(1, 3, 4, 6)
    unfolded = nn.Unfold(2, stride=2)(image).transpose(1, 2)
    weight, bias = (swin[names[f"norm.{end}"]] for end in ("weight", "bias"))
    expected = F.layer_norm(unfolded, (12,), weight, bias) @ swin[names["reduction.weight"]].T
    found = layer(image.permute(0, 2, 3, 1)).flatten(1, 2)
    torch.testing.assert_close(found, expected)
    back = revert_state_dict(converted, "mmdet-co-dino")
    assert all(torch.equal(back[name], tensor) for name, tensor in swin.items())


def test_the_command_reads_a_file_of_mmdetection(tmp_path, capsys):
    source, target = tmp_path / "released.pth", tmp_path / "converted.pth"
    state = co_detr(**TINY)
    torch.save({"meta": {"epoch": 12, "CLASSES": ("person",)}, "state_dict": state}, source)
    assert main(["convert", str(source), str(target)]) == 0
    assert "(co-detr)" in capsys.readouterr().out
    assert torch.load(target)["model"].keys() == convert_state_dict(state, "co-detr").keys()


def test_the_released_layout_takes_the_port():
    state = co_detr(dino=True, port=True, **TINY)
    converted, expected = (convert_state_dict(state, x) for x in ("co-detr", "mmdet-co-dino"))
    assert converted.keys() == expected.keys()
    released = revert_state_dict(converted, "co-detr")
    assert "query_head.label_embedding.weight" in released
    with pytest.raises(ValueError, match="a checkpoint of co-detr, .* not of mmdet-co-dino"):
        convert_state_dict(released, "mmdet-co-dino")


def test_queries_of_a_head_that_is_not_there():
    state = {k: v for k, v in co_detr(**TINY).items() if not k.startswith("bbox_head.")}
    with pytest.raises(ValueError, match=r"queries of head 1, .* only these heads: \['rcnn'\]"):
        convert_state_dict(state, "co-detr")


def test_what_is_ambiguous_is_no_guess():
    state = co_detr(**TINY)
    converted = convert_state_dict(state, "co-detr")
    del converted["groups.rcnn.encoding.head_embedding"]
    with pytest.raises(ValueError, match="not all heads of .* have queries with a head_embedding"):
        revert_state_dict(converted, "co-detr")
    state["query_head.transformer.query_embed.weight"] = torch.rand(900, 8)
    with pytest.raises(ValueError, match="learned content of Co-DINO and another one"):
        convert_state_dict(state, "co-detr")


def test_another_number_of_anchors():
    state = co_detr(**TINY) | {"rpn_head.rpn_cls.bias": torch.rand(5)}
    with pytest.raises(ValueError, match=r"objectness_logits\.bias has a shape of no .*\(5,\)"):
        convert_state_dict(state, "co-detr")


def test_heads_that_the_released_code_has_not():
    converted = convert_state_dict(co_detr(**TINY), "co-detr")
    converted["auxiliary.heads.fcos.box_conv.bias"] = torch.rand(4)
    with pytest.raises(ValueError, match=r"no place in co-detr: auxiliary\.heads\.fcos\.box_conv"):
        revert_state_dict(converted, "co-detr")
