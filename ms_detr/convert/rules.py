"""What the tensors of published implementations are called, and what they are called here.

From the official repositories of Deformable DETR, H-DETR, MS-DETR and DINO, and from detrex.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = Mapping[str, Tensor]
# (ours, theirs). Of rules that fit a name the first one counts.
Rules = list[tuple[str, str]]

# Where contrastive denoising keeps its embedding of labels.
DENOISING_LABELS = "groups.denoising.embedding.weight"

# Parts of names that are the same on both sides.
PARTS = {
    "i": r"\d+",
    "j": r"\d+",
    "end": "weight|bias",
    "norm": "weight|bias|running_mean|running_var",
    "attention": "(?:sampling_offsets|attention_weights|value_proj|output_proj)[.](?:weight|bias)",
    "patch": "(?:proj|norm)[.](?:weight|bias)",
    "merge": "norm[.]weight|norm[.]bias|reduction[.]weight",
    "window": "(?:norm[12]|attn[.]qkv|attn[.]proj|mlp[.]fc[12])[.](?:weight|bias)"
    "|attn[.]relative_position_bias_table",
    "multihead": "in_proj_weight|in_proj_bias|out_proj[.]weight|out_proj[.]bias",
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
    layer = re.compile(r"(?:transformer\.)?decoder\.layers\.(\d+)\.")
    level = re.compile(r"(?:input_proj|neck\.projections|neck\.extra_levels)\.\d+\.0\.weight")
    layers = [int(found[1]) for name in state if (found := layer.match(name))]
    # A backbone's map is projected by 1x1, a further level made by 3x3.
    kernels = [tensor.shape[-1] for name, tensor in state.items() if level.fullmatch(name)]
    return Sizes(1 + max(layers, default=-1), kernels.count(1), len(kernels))


def resnet(theirs: str) -> Rules:
    """As torchvision has them."""
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


def swin_maps(theirs: str) -> Rules:
    """The norms of the maps that a detector with a Swin Transformer reads."""
    return [(f"backbone.norms.res{k + 2}.{{end}}", f"{theirs}norm{k}.{{end}}") for k in range(4)]


def box_head(ours: str, theirs: str) -> Rules:
    """Three linear layers; here activations count as well."""
    return [(f"{ours}.{2 * k}.{{end}}", f"{theirs}.layers.{k}.{{end}}") for k in range(3)]


def official_neck(sizes: Sizes) -> Rules:
    """One list of levels."""
    return [
        ("neck.level_embedding", "transformer.level_embed"),
        *(
            (f"neck.extra_levels.{k - sizes.maps}.{{j}}.{{end}}", f"input_proj.{k}.{{j}}.{{end}}")
            for k in range(sizes.maps, sizes.levels)
        ),
        ("neck.projections.{i}.{j}.{end}", "input_proj.{i}.{j}.{end}"),
    ]


def detrex_neck(_: Sizes) -> Rules:
    """Levels from the backbone's maps, and further ones."""
    return [
        ("neck.level_embedding", "transformer.level_embeds"),
        *(
            (f"neck.{ours}.{{i}}.{j}.{{end}}", f"neck.{theirs}.{{i}}.{part}.{{end}}")
            for ours, theirs in (("projections", "convs"), ("extra_levels", "extra_convs"))
            for j, part in enumerate(("conv", "norm"))
        ),
    ]


# Of a layer, by our names.
OFFICIAL_ENCODER = {
    "attention.attention.{attention}": "self_attn.{attention}",
    "attention.norm.{end}": "norm1.{end}",
    "ffn.norm.{end}": "norm2.{end}",
    "ffn.linear1.{end}": "linear1.{end}",
    "ffn.linear2.{end}": "linear2.{end}",
}
OFFICIAL_DECODER = {
    "sublayers.cross_attention.attention.{attention}": "cross_attn.{attention}",
    "sublayers.self_attention.attention.{multihead}": "self_attn.{multihead}",
    "sublayers.cross_attention.norm.{end}": "norm1.{end}",
    "sublayers.self_attention.norm.{end}": "norm2.{end}",
    "sublayers.ffn.norm.{end}": "norm3.{end}",
    "sublayers.ffn.linear1.{end}": "linear1.{end}",
    "sublayers.ffn.linear2.{end}": "linear2.{end}",
}
MS_DETR_DECODER = OFFICIAL_DECODER | {
    "taps.cross_attention.ffn.norm.{end}": "norm4.{end}",
    "taps.cross_attention.ffn.linear1.{end}": "linear3.{end}",
    "taps.cross_attention.ffn.linear2.{end}": "linear4.{end}",
}
DETREX_FFN = {"linear1.{end}": "ffns.0.layers.0.0.{end}", "linear2.{end}": "ffns.0.layers.1.{end}"}
DETREX_ENCODER = {
    "attention.attention.{attention}": "attentions.0.{attention}",
    "attention.norm.{end}": "norms.0.{end}",
    "ffn.norm.{end}": "norms.1.{end}",
    **{f"ffn.{ours}": theirs for ours, theirs in DETREX_FFN.items()},
}
DETREX_DECODER = {
    "sublayers.self_attention.attention.{multihead}": "attentions.0.attn.{multihead}",
    "sublayers.cross_attention.attention.{attention}": "attentions.1.{attention}",
    "sublayers.self_attention.norm.{end}": "norms.0.{end}",
    "sublayers.cross_attention.norm.{end}": "norms.1.{end}",
    "sublayers.ffn.norm.{end}": "norms.2.{end}",
    **{f"sublayers.ffn.{ours}": theirs for ours, theirs in DETREX_FFN.items()},
}


def layers(encoder: Mapping[str, str], decoder: Mapping[str, str]) -> Rules:
    """All layers, from what the parts of one are called."""
    return [
        (f"{where}.layers.{{i}}.{ours}", f"transformer.{where}.layers.{{i}}.{theirs}")
        for where, names in (("encoder", encoder), ("decoder", decoder))
        for ours, theirs in names.items()
    ]


def queries_and_heads(sizes: Sizes) -> Rules:
    """What all call the same, but for learned queries."""
    start, last = "query_initializer.", sizes.layers
    return [
        (f"{start}token_projection.{{end}}", "transformer.enc_output.{end}"),
        (f"{start}token_norm.{{end}}", "transformer.enc_output_norm.{end}"),
        (f"{start}query_projection.{{end}}", "transformer.pos_trans.{end}"),
        (f"{start}query_norm.{{end}}", "transformer.pos_trans_norm.{end}"),
        (f"{start}reference_points.{{end}}", "transformer.reference_points.{end}"),
        # The head behind those of the layers is the proposals'.
        (f"{start}class_head.{{end}}", f"class_embed.{last}.{{end}}"),
        *box_head(f"{start}box_head", f"bbox_embed.{last}"),
        ("decoder.class_heads.{i}.{end}", "class_embed.{i}.{end}"),
        *box_head("decoder.box_heads.{i}", "bbox_embed.{i}"),
    ]


def dino_additions() -> Rules:
    """What DINO has beside Deformable DETR."""
    position = "transformer.decoder.ref_point_head.layers"
    return [
        (DENOISING_LABELS, "label_enc.weight"),
        ("decoder.output_norm.{end}", "transformer.decoder.norm.{end}"),
        *(
            (f"query_initializer.position.mlp.{2 * k}.{{end}}", f"{position}.{k}.{{end}}")
            for k in range(2)
        ),
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
