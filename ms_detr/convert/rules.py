"""Rules that rename tensors, one by one, from a published implementation's names to ours.

A rule is a pair of templates. What implementations share is here; `official`, `detrex`, `co_detr`
and `transformers` hold those of one origin each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = Mapping[str, Tensor]
# (ours, theirs). Of rules that fit a name the first one counts.
Rules = list[tuple[str, str]]

# Where denoising keeps its embedding of labels.
DENOISING_LABELS = "groups.denoising.embedding.weight"
# What published code keeps in one tensor and we in several: `rearrange` takes them apart.
QUERIES = "query_initializer.queries"
ANCHORS = "query_initializer.anchors"

CAFFE2_BRANCHES = {
    "shortcut": "branch1",
    "conv1": "branch2a",
    "conv2": "branch2b",
    "conv3": "branch2c",
}

# Parts of names that are the same on both sides.
PARTS = {
    "i": r"\d+",
    "j": r"\d+",
    "end": "weight|bias",
    "norm": "weight|bias|running_mean|running_var",
    "attention": "(?:sampling_offsets|attention_weights|value_proj|output_proj)[.](?:weight|bias)",
    "token": "cls_token|pos_embed",
    "patch": "(?:proj|norm)[.](?:weight|bias)",
    "merge": "norm[.]weight|norm[.]bias|reduction[.]weight",
    "window": "(?:norm[12]|attn[.]qkv|attn[.]proj|mlp[.]fc[12])[.](?:weight|bias)"
    "|attn[.]relative_position_bias_table",
    "multihead": "in_proj_weight|in_proj_bias|out_proj[.]weight|out_proj[.]bias",
    "projection": "[qkv]_proj[.](?:weight|bias)|out_proj[.](?:weight|bias)",
    "resnet": r"(?:stem[.]conv1|res[2-5][.]\d+[.](?:conv[123]|shortcut))"
    "[.](?:weight|norm[.](?:weight|bias|running_mean|running_var))",
}


@dataclass(frozen=True)
class Sizes:
    """What rules depend on.

    Attributes:
        layers: of the decoder.
        maps: of the backbone that are read.
        levels: of features; those behind the maps are made from the last one.
    """

    layers: int
    maps: int
    levels: int


def measure(state: State) -> Sizes:
    """The sizes of a model by its state dict, with our names or published ones."""
    layer = re.compile(r"(?:(?:query_head\.)?transformer\.|model\.)?decoder\.layers\.(\d+)\.")
    level = re.compile(
        r"(?:(?:model\.)?input_proj|neck\.projections|neck\.extra_levels)\.\d+\.0\.weight"
    )
    layers = [int(found[1]) for name in state if (found := layer.match(name))]
    # A backbone's map is projected by 1x1, a further level made by 3x3.
    kernels = [tensor.shape[-1] for name, tensor in state.items() if level.fullmatch(name)]
    return Sizes(1 + max(layers, default=-1), kernels.count(1), len(kernels))


def resnet(theirs: str) -> Rules:
    """As torchvision and timm have them."""
    rules = [
        ("backbone.stem.conv1.weight", f"{theirs}conv1.weight"),
        ("backbone.stem.conv1.norm.{norm}", f"{theirs}bn1.{{norm}}"),
    ]
    for stage in range(1, 5):
        ours, block = f"backbone.res{stage + 1}.{{i}}.", f"{theirs}layer{stage}.{{i}}."
        rules += [
            (f"{ours}conv{{j}}.weight", f"{block}conv{{j}}.weight"),
            (f"{ours}conv{{j}}.norm.{{norm}}", f"{block}bn{{j}}.{{norm}}"),
            (f"{ours}shortcut.weight", f"{block}downsample.0.weight"),
            (f"{ours}shortcut.norm.{{norm}}", f"{block}downsample.1.{{norm}}"),
        ]
    return rules


def caffe2_resnet() -> Rules:
    """As Caffe2, and so Detectron and the oldest weights of Detectron2, have them."""
    norms = {"weight": "s|gamma", "bias": "b|beta", "running_mean": "rm|running_mean"}
    norms["running_var"] = "riv|running_var"
    places = [("stem.conv1", "conv1", "res_conv1")]
    for stage in range(2, 6):
        for part, branch in CAFFE2_BRANCHES.items():
            theirs = f"res{stage}_{{i}}_{branch}"
            places.append((f"res{stage}.{{i}}.{part}", theirs, theirs))
    return [
        rule
        for ours, convolution, norm in places
        for rule in (
            (f"backbone.{ours}.weight", f"{convolution}_w"),
            *(
                (f"backbone.{ours}.norm.{name}", f"{norm}_bn_{short}")
                for name, shorts in norms.items()
                for short in shorts.split("|")
            ),
        )
    ]


def swin(theirs: str) -> Rules:
    """Published Swin Transformers (arXiv:2103.14030) as `TimmBackbone` has them.

    A stage that ends with the merging of patches is one that the next begins with.
    """
    body = "backbone.body."
    return [
        (f"{body}patch_embed.{{patch}}", f"{theirs}patch_embed.{{patch}}"),
        (
            f"{body}layers_{{i}}.blocks.{{j}}.{{window}}",
            f"{theirs}layers.{{i}}.blocks.{{j}}.{{window}}",
        ),
        *(
            (
                f"{body}layers_{i + 1}.downsample.{{merge}}",
                f"{theirs}layers.{i}.downsample.{{merge}}",
            )
            for i in range(3)
        ),
    ]


def vit() -> Rules:
    """Plain Vision Transformers, such as MAE's, as `TimmBackbone` has them, without last norm."""
    body = "backbone.body.model."
    return [
        (f"{body}{{token}}", "{token}"),
        (f"{body}patch_embed.{{patch}}", "patch_embed.{patch}"),
        (f"{body}blocks.{{i}}.{{window}}", "blocks.{i}.{window}"),
    ]


# Blocks of the stages of EfficientNet-Lite0, which efficientnet-pytorch counts through.
LITE0 = (1, 2, 2, 3, 3, 4, 1)
LITE_PARTS = (
    ("conv_pw", "bn1", "_expand_conv", "_bn0"),
    ("conv_dw", "bn2", "_depthwise_conv", "_bn1"),
    ("conv_pwl", "bn3", "_project_conv", "_bn2"),
)
# The first block doesn't expand its channels, and timm names what is left in another way.
LITE_FIRST = (
    ("conv_dw", "bn1", "_depthwise_conv", "_bn1"),
    ("conv_pw", "bn2", "_project_conv", "_bn2"),
)


def efficientnet_lite0() -> Rules:
    """EfficientNet-Lite0 by efficientnet-pytorch's names, as `TimmBackbone` has it."""
    body = "backbone.body."
    rules = [
        (f"{body}conv_stem.weight", "_conv_stem.weight"),
        (f"{body}bn1.{{norm}}", "_bn0.{norm}"),
    ]
    places = [(stage, block) for stage, count in enumerate(LITE0) for block in range(count)]
    for number, (stage, block) in enumerate(places):
        ours, theirs = f"{body}blocks.{stage}.{block}.", f"_blocks.{number}."
        for convolution, norm, their_convolution, their_norm in (
            LITE_PARTS if number else LITE_FIRST
        ):
            rules += [
                (f"{ours}{convolution}.weight", f"{theirs}{their_convolution}.weight"),
                (f"{ours}{norm}.{{norm}}", f"{theirs}{their_norm}.{{norm}}"),
            ]
    return rules


def swin_maps(theirs: str) -> Rules:
    """The norms of the maps that a detector with a Swin Transformer reads."""
    return [(f"backbone.norms.res{k + 2}.{{end}}", f"{theirs}norm{k}.{{end}}") for k in range(4)]


def mlp(ours: str, theirs: str, count: int) -> Rules:
    """Linear layers; here activations count as well."""
    return [(f"{ours}.{2 * k}.{{end}}", f"{theirs}.layers.{k}.{{end}}") for k in range(count)]


def box_head(ours: str, theirs: str) -> Rules:
    """Three linear layers."""
    return mlp(ours, theirs, 3)


def neck(level_embed: str, projections: str, sizes: Sizes) -> Rules:
    """One list of levels, the further ones at its end."""
    return [
        ("neck.level_embedding", level_embed),
        *(
            (
                f"neck.extra_levels.{k - sizes.maps}.{{j}}.{{end}}",
                f"{projections}.{k}.{{j}}.{{end}}",
            )
            for k in range(sizes.maps, sizes.levels)
        ),
        ("neck.projections.{i}.{j}.{end}", f"{projections}.{{i}}.{{j}}.{{end}}"),
    ]


def layers(start: str, encoder: Mapping[str, str], decoder: Mapping[str, str]) -> Rules:
    """All layers, from what the parts of one are called: theirs by ours."""
    return [
        (f"{where}.layers.{{i}}.{ours}", f"{start}{where}.layers.{{i}}.{theirs}")
        for where, names in (("encoder", encoder), ("decoder", decoder))
        for ours, theirs in names.items()
    ]


def proposals(start: str) -> Rules:
    """What Deformable DETR's two stages, or its one, make queries with."""
    ours = "query_initializer."
    return [
        (f"{ours}token_projection.{{end}}", f"{start}enc_output.{{end}}"),
        (f"{ours}token_norm.{{end}}", f"{start}enc_output_norm.{{end}}"),
        (f"{ours}query_projection.{{end}}", f"{start}pos_trans.{{end}}"),
        (f"{ours}query_norm.{{end}}", f"{start}pos_trans_norm.{{end}}"),
        (f"{ours}reference_points.{{end}}", f"{start}reference_points.{{end}}"),
    ]


def layer_heads(sizes: Sizes) -> Rules:
    """A class and a box head a layer, behind them the proposals'."""
    start, last = "query_initializer.", sizes.layers
    return [
        (f"{start}class_head.{{end}}", f"class_embed.{last}.{{end}}"),
        *box_head(f"{start}box_head", f"bbox_embed.{last}"),
        ("decoder.class_heads.{i}.{end}", "class_embed.{i}.{end}"),
        *box_head("decoder.box_heads.{i}", "bbox_embed.{i}"),
    ]


def conditional_queries(decoder: str) -> Rules:
    """What Conditional DETR's decoder makes of learned positions."""
    ours = "query_initializer."
    return [
        *mlp(f"{ours}point", f"{decoder}ref_point_head", 2),
        *mlp(f"{ours}spatial.scale.mlp", f"{decoder}query_scale", 2),
    ]


def anchor_queries(transformer: str) -> Rules:
    """What DAB-DETR's encoder and decoder make of learned anchors."""
    ours, decoder = "query_initializer.", f"{transformer}decoder."
    return [
        *mlp(f"{ours}position.mlp", f"{decoder}ref_point_head", 2),
        *mlp(f"{ours}spatial.scale.mlp", f"{decoder}query_scale", 2),
        *mlp(f"{ours}spatial.size", f"{decoder}ref_anchor_head", 2),
        *mlp("encoder.position_scale", f"{transformer}encoder.query_scale", 2),
    ]


def one_head(class_head: str, boxes: str) -> Rules:
    """One class and one box head: `rearrange.OneHead` repeats them."""
    return [
        ("decoder.class_heads.0.{end}", f"{class_head}.{{end}}"),
        *box_head("decoder.box_heads.0", boxes),
    ]


def compile_rules(rules: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """(pattern of the source's name, template of the target's) from (source, target)."""
    compiled = []
    for source, target in rules:
        pattern = re.escape(source)
        for part, expression in PARTS.items():
            pattern = pattern.replace(re.escape(f"{{{part}}}"), f"(?P<{part}>{expression})")
        compiled.append((re.compile(pattern), target))
    return compiled


def rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    """The target's name, None where no rule fits."""
    for pattern, template in rules:
        if found := pattern.fullmatch(name):
            return template.format(**found.groupdict())
    return None
