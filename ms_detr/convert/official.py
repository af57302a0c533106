"""Names in the official repositories of the DETR family."""

from __future__ import annotations

from .rules import (
    ANCHORS,
    DENOISING_LABELS,
    QUERIES,
    Rules,
    Sizes,
    anchor_queries,
    box_head,
    conditional_queries,
    layer_heads,
    layers,
    mlp,
    neck,
    one_head,
    proposals,
    resnet,
    swin,
    swin_maps,
)

BODY = "backbone.0.body."
TRANSFORMER = "transformer."
WRAPPED = "query_initializer.initializer."  # what denoising wraps

# Of a layer, by our names.
FFN = {"linear1.{end}": "linear1.{end}", "linear2.{end}": "linear2.{end}"}
ENCODER_REST = {
    "attention.norm.{end}": "norm1.{end}",
    "ffn.norm.{end}": "norm2.{end}",
    **{f"ffn.{ours}": theirs for ours, theirs in FFN.items()},
}
DENSE_ENCODER = {"attention.attention.{multihead}": "self_attn.{multihead}", **ENCODER_REST}
DEFORMABLE_ENCODER = {"attention.attention.{attention}": "self_attn.{attention}", **ENCODER_REST}
DECODER_FFN = {
    "sublayers.ffn.norm.{end}": "norm3.{end}",
    **{f"sublayers.ffn.{ours}": theirs for ours, theirs in FFN.items()},
}
SELF_ATTENTION = {"sublayers.self_attention.attention.{multihead}": "self_attn.{multihead}"}
DEFORMABLE_DECODER = {
    "sublayers.cross_attention.attention.{attention}": "cross_attn.{attention}",
    **SELF_ATTENTION,
    "sublayers.cross_attention.norm.{end}": "norm1.{end}",
    "sublayers.self_attention.norm.{end}": "norm2.{end}",
    **DECODER_FFN,
}
MS_DETR_DECODER = DEFORMABLE_DECODER | {
    "taps.cross_attention.ffn.norm.{end}": "norm4.{end}",
    "taps.cross_attention.ffn.linear1.{end}": "linear3.{end}",
    "taps.cross_attention.ffn.linear2.{end}": "linear4.{end}",
}
# Unlike the deformable ones, these number norms in the order of computing.
DENSE_NORMS = {
    "sublayers.self_attention.norm.{end}": "norm1.{end}",
    "sublayers.cross_attention.norm.{end}": "norm2.{end}",
    **DECODER_FFN,
}
DETR_DECODER = {
    **SELF_ATTENTION,
    "sublayers.cross_attention.attention.{multihead}": "multihead_attn.{multihead}",
    **DENSE_NORMS,
}
SMCA_DECODER = DETR_DECODER | {
    "sublayers.cross_attention.gaussians.0.offset.{end}": "point2.{end}",
    "sublayers.cross_attention.gaussians.0.scale.{end}": "point3.{end}",
}
# transformers has kept these.
CONDITIONAL_PROJECTIONS = {
    "sublayers.self_attention.content_query.{end}": "sa_qcontent_proj.{end}",
    "sublayers.self_attention.position_query.{end}": "sa_qpos_proj.{end}",
    "sublayers.self_attention.content_key.{end}": "sa_kcontent_proj.{end}",
    "sublayers.self_attention.position_key.{end}": "sa_kpos_proj.{end}",
    "sublayers.self_attention.value.{end}": "sa_v_proj.{end}",
    "sublayers.self_attention.output.{end}": "self_attn.out_proj.{end}",
    "sublayers.cross_attention.content_query.{end}": "ca_qcontent_proj.{end}",
    "sublayers.cross_attention.first_query.{end}": "ca_qpos_proj.{end}",
    "sublayers.cross_attention.position_query.{end}": "ca_qpos_sine_proj.{end}",
    "sublayers.cross_attention.content_key.{end}": "ca_kcontent_proj.{end}",
    "sublayers.cross_attention.position_key.{end}": "ca_kpos_proj.{end}",
    "sublayers.cross_attention.value.{end}": "ca_v_proj.{end}",
}
CONDITIONAL_DECODER = {
    **CONDITIONAL_PROJECTIONS,
    "sublayers.cross_attention.output.{end}": "cross_attn.out_proj.{end}",
    **DENSE_NORMS,
}
SAM_DECODER = {
    **CONDITIONAL_DECODER,
    **{
        f"sublayers.cross_attention.{ours}.{{end}}": f"{theirs}.{{end}}"
        for ours, theirs in {
            "position_query.0": "ca_qpos_sine_proj.layers.0",
            "position_query.2": "ca_qpos_sine_proj.layers.1",
            "position_key.0": "ca_kpos_sine_proj.layers.0",
            "position_key.2": "ca_kpos_sine_proj.layers.1",
            "aligner.predictor.0": "point1.0",
            "aligner.predictor.3": "point2.0",
            "aligner.predictor.5": "point2.2",
            "aligner.predictor.7": "point2.4",
            "aligner.predictor.9": "point2.6",
            "aligner.content_gate": "attn1",
            "aligner.position_gate": "attn2",
        }.items()
    },
}
# DAB-DETR's activations learn.
DAB_ENCODER = DENSE_ENCODER | {"ffn.activation.weight": "activation.weight"}
DAB_DECODER = CONDITIONAL_DECODER | {"sublayers.ffn.activation.weight": "activation.weight"}


def backbone() -> Rules:
    """ResNets; Swin Transformers where DINO does not name them."""
    return [*resnet(BODY), *swin(BODY), *swin_maps(BODY)]


def _levels(sizes: Sizes) -> Rules:
    """Feature levels, deformable attention, a head for every layer."""
    return [
        *backbone(),
        *neck("transformer.level_embed", "input_proj", sizes),
        *layers(TRANSFORMER, DEFORMABLE_ENCODER, DEFORMABLE_DECODER),
        *layer_heads(sizes),
    ]


def deformable_detr(sizes: Sizes) -> Rules:
    """Deformable DETR, one- and two-stage, and H-DETR."""
    return [*_levels(sizes), (QUERIES, "query_embed.weight"), *proposals(TRANSFORMER)]


def ms_detr(sizes: Sizes) -> Rules:
    """MS-DETR, implementations (a) and (c)."""
    return [
        *layers(TRANSFORMER, DEFORMABLE_ENCODER, MS_DETR_DECODER),
        *deformable_detr(sizes),
        # Implementation (a).
        ("decoder.tap_class_heads.ffn.{i}.{end}", "class_embed_o2m.{i}.{end}"),
    ]


def dino_additions() -> Rules:
    """What DINO has beside Deformable DETR, in detrex too."""
    return [
        (DENOISING_LABELS, "label_enc.weight"),
        ("query_initializer.content", "transformer.tgt_embed.weight"),
        ("decoder.output_norm.{end}", "transformer.decoder.norm.{end}"),
        *mlp("query_initializer.position.mlp", "transformer.decoder.ref_point_head", 2),
    ]


def dino(sizes: Sizes) -> Rules:
    """DINO: the proposals have heads of their own."""
    start = "query_initializer."
    return [
        *dino_additions(),
        *swin("backbone.0."),
        *swin_maps("backbone.0."),
        (f"{start}class_head.{{end}}", "transformer.enc_out_class_embed.{end}"),
        *box_head(f"{start}box_head", "transformer.enc_out_bbox_embed"),
        *_levels(sizes),
        *proposals(TRANSFORMER),
    ]


def dab_deformable_detr(sizes: Sizes) -> Rules:
    """DAB-Deformable-DETR: learned anchors and content."""
    start, decoder = "query_initializer.", "transformer.decoder."
    return [
        *_levels(sizes),
        (f"{start}content", "tgt_embed.weight"),
        (ANCHORS, "refpoint_embed.weight"),
        *mlp(f"{start}position.mlp", f"{decoder}ref_point_head", 2),
        *mlp(f"{start}position.scale.mlp", f"{decoder}query_scale", 2),
    ]


def _one_map() -> Rules:
    """One feature map, one class and one box head, a norm before them."""
    return [
        *backbone(),
        ("neck.projection.{end}", "input_proj.{end}"),
        ("decoder.output_norm.{end}", "transformer.decoder.norm.{end}"),
        *one_head("class_embed", "bbox_embed"),
    ]


def detr(_: Sizes) -> Rules:
    """DETR, ending in the classes and nothing."""
    return [
        *_one_map(),
        *layers(TRANSFORMER, DENSE_ENCODER, DETR_DECODER),
        ("query_initializer.position", "query_embed.weight"),
    ]


def conditional_detr(_: Sizes) -> Rules:
    """Conditional DETR: projections apart for content and position."""
    return [
        *_one_map(),
        *layers(TRANSFORMER, DENSE_ENCODER, CONDITIONAL_DECODER),
        ("query_initializer.position", "query_embed.weight"),
        *conditional_queries("transformer.decoder."),
    ]


def smca_detr(_: Sizes) -> Rules:
    """SMCA-DETR of one scale: the first of its layers has the network of the centres."""
    ours, theirs = "query_initializer.", "transformer.decoder.layers."
    return [
        *_one_map(),
        *layers(TRANSFORMER, DENSE_ENCODER, SMCA_DECODER),
        (f"{ours}position", "query_embed.weight"),
        (f"{ours}norms.{{i}}.{{end}}", f"{theirs}{{i}}.norm4.{{end}}"),
        *mlp(f"{ours}center", f"{theirs}0.point1", 3),
    ]


def sam_detr(sizes: Sizes) -> Rules:
    """SAM-DETR on one level or on several, with and without SMCA: a head for every layer."""
    several = sizes.levels > 1
    one_level = [
        ("neck.projection.{end}", "input_proj.0.0.{end}"),
        ("neck.norm.{end}", "input_proj.0.1.{end}"),
    ]
    return [
        *backbone(),
        *(neck("transformer.level_embed", "input_proj", sizes) if several else one_level),
        *layers(TRANSFORMER, DEFORMABLE_ENCODER if several else DENSE_ENCODER, SAM_DECODER),
        *layer_heads(sizes),
        ("query_initializer.boxes", "query_embed.weight"),
    ]


def dab_detr(_: Sizes) -> Rules:
    """DAB-DETR: Conditional DETR with learned anchors."""
    return [
        *_one_map(),
        *layers(TRANSFORMER, DAB_ENCODER, DAB_DECODER),
        (ANCHORS, "refpoint_embed.weight"),
        *anchor_queries(TRANSFORMER),
    ]


def denoising(rules: Rules) -> Rules:
    """The same with DN-DETR's denoising, whose wrapping shows in our names."""
    return [
        (DENOISING_LABELS, "label_enc.weight"),
        *((ours.replace("query_initializer.", WRAPPED), theirs) for ours, theirs in rules),
    ]
