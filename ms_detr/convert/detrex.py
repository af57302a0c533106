"""Names in detrex: Deformable DETR, DINO (and Align-DETR), Conditional DETR (and Group DETR)."""

from __future__ import annotations

from .official import SELF_ATTENTION, dino_additions
from .rules import (
    QUERIES,
    Rules,
    Sizes,
    conditional_queries,
    layer_heads,
    layers,
    one_head,
    proposals,
)

TRANSFORMER = "transformer."
BACKBONE = [("backbone.{resnet}", "backbone.{resnet}")]

# Of a layer, by our names; norms in the order of computing.
FFN = {"linear1.{end}": "ffns.0.layers.0.0.{end}", "linear2.{end}": "ffns.0.layers.1.{end}"}
ENCODER_REST = {
    "attention.norm.{end}": "norms.0.{end}",
    "ffn.norm.{end}": "norms.1.{end}",
    **{f"ffn.{ours}": theirs for ours, theirs in FFN.items()},
}
DECODER_REST = {
    "sublayers.self_attention.norm.{end}": "norms.0.{end}",
    "sublayers.cross_attention.norm.{end}": "norms.1.{end}",
    "sublayers.ffn.norm.{end}": "norms.2.{end}",
    **{f"sublayers.ffn.{ours}": theirs for ours, theirs in FFN.items()},
}
DEFORMABLE_ENCODER = {
    "attention.attention.{attention}": "attentions.0.{attention}",
    **ENCODER_REST,
}
DEFORMABLE_DECODER = {
    **dict.fromkeys(SELF_ATTENTION, "attentions.0.attn.{multihead}"),
    "sublayers.cross_attention.attention.{attention}": "attentions.1.{attention}",
    **DECODER_REST,
}
DENSE_ENCODER = {
    "attention.attention.{multihead}": "attentions.0.attn.{multihead}",
    **ENCODER_REST,
}
CONDITIONAL_DECODER = {
    **{
        f"sublayers.{sublayer}_attention.{ours}.{{end}}": f"attentions.{k}.{theirs}.{{end}}"
        for k, sublayer in enumerate(("self", "cross"))
        for ours, theirs in {
            "content_query": "query_content_proj",
            "position_query": ("query_pos_proj", "query_pos_sine_proj")[k],
            "content_key": "key_content_proj",
            "position_key": "key_pos_proj",
            "value": "value_proj",
            "output": "out_proj",
        }.items()
    },
    "sublayers.cross_attention.first_query.{end}": "attentions.1.query_pos_proj.{end}",
    **DECODER_REST,
}


def channel_mapper(level_embeds: str, norm: str) -> Rules:
    """Levels from the backbone's maps, and further ones, as mmdetection makes them."""
    return [
        ("neck.level_embedding", level_embeds),
        *(
            (f"neck.{ours}.{{i}}.{j}.{{end}}", f"neck.{theirs}.{{i}}.{part}.{{end}}")
            for ours, theirs in (("projections", "convs"), ("extra_levels", "extra_convs"))
            for j, part in enumerate(("conv", norm))
        ),
    ]


def deformable_detr(sizes: Sizes) -> Rules:
    """One- and two-stage."""
    return [
        *BACKBONE,
        *channel_mapper("transformer.level_embeds", "norm"),
        *layers(TRANSFORMER, DEFORMABLE_ENCODER, DEFORMABLE_DECODER),
        (QUERIES, "query_embedding.weight"),
        *proposals(TRANSFORMER),
        *layer_heads(sizes),
    ]


def dino(sizes: Sizes) -> Rules:
    """DINO, and what is built on it (Align-DETR)."""
    return [*dino_additions(), *deformable_detr(sizes)]


def conditional_detr(_: Sizes) -> Rules:
    """Conditional DETR, and Group DETR on it, which has more rows of queries."""
    return [
        *BACKBONE,
        ("neck.projection.{end}", "input_proj.{end}"),
        *layers(TRANSFORMER, DENSE_ENCODER, CONDITIONAL_DECODER),
        ("decoder.output_norm.{end}", "transformer.decoder.post_norm_layer.{end}"),
        ("query_initializer.position", "query_embed.weight"),
        *conditional_queries("transformer.decoder."),
        *one_head("class_embed", "bbox_embed"),
    ]
