"""Names in the files that transformers' `save_pretrained` writes.

DETR, Conditional DETR, DAB-DETR, Deformable DETR. Query, key and value have projections of their
own there: `rearrange.JoinedProjections`.
"""

from __future__ import annotations

from .official import CONDITIONAL_PROJECTIONS
from .rules import (
    ANCHORS,
    QUERIES,
    Rules,
    Sizes,
    anchor_queries,
    conditional_queries,
    layer_heads,
    layers,
    neck,
    one_head,
    proposals,
    resnet,
)

MODEL = "model."
BACKBONE = "model.backbone.conv_encoder.model."

# Of a layer, by our names.
ENCODER_REST = {
    "attention.norm.{end}": "self_attn_layer_norm.{end}",
    "ffn.norm.{end}": "final_layer_norm.{end}",
    "ffn.linear1.{end}": "fc1.{end}",
    "ffn.linear2.{end}": "fc2.{end}",
}
DENSE_ENCODER = {"attention.attention.{projection}": "self_attn.{projection}", **ENCODER_REST}
DEFORMABLE_ENCODER = {"attention.attention.{attention}": "self_attn.{attention}", **ENCODER_REST}
SELF_ATTENTION = {"sublayers.self_attention.attention.{projection}": "self_attn.{projection}"}
DECODER_REST = {
    "sublayers.self_attention.norm.{end}": "self_attn_layer_norm.{end}",
    "sublayers.cross_attention.norm.{end}": "encoder_attn_layer_norm.{end}",
    "sublayers.ffn.norm.{end}": "final_layer_norm.{end}",
    "sublayers.ffn.linear1.{end}": "fc1.{end}",
    "sublayers.ffn.linear2.{end}": "fc2.{end}",
}
DETR_DECODER = {
    **SELF_ATTENTION,
    "sublayers.cross_attention.attention.{projection}": "encoder_attn.{projection}",
    **DECODER_REST,
}
DEFORMABLE_DECODER = {
    **SELF_ATTENTION,
    "sublayers.cross_attention.attention.{attention}": "encoder_attn.{attention}",
    **DECODER_REST,
}
CONDITIONAL_DECODER = {
    **CONDITIONAL_PROJECTIONS,
    "sublayers.cross_attention.output.{end}": "encoder_attn.out_proj.{end}",
    **DECODER_REST,
}
DAB_ENCODER = DENSE_ENCODER | {"ffn.activation.weight": "activation_fn.weight"}
DAB_DECODER = {
    **{
        f"sublayers.{sublayer}_attention.{ours}.{{end}}": f"{sublayer}_attn.{theirs}.{{end}}"
        for sublayer, position in (("self", "query_pos_proj"), ("cross", "query_pos_sine_proj"))
        for ours, theirs in {
            "content_query": f"{sublayer}_attn_query_content_proj",
            "position_query": f"{sublayer}_attn_{position}",
            "content_key": f"{sublayer}_attn_key_content_proj",
            "position_key": f"{sublayer}_attn_key_pos_proj",
            "value": f"{sublayer}_attn_value_proj",
            "output": f"{sublayer}_attn.output_proj",
            "norm": f"{sublayer}_attn_layer_norm",
        }.items()
    },
    "sublayers.cross_attention.first_query.{end}": "cross_attn.cross_attn_query_pos_proj.{end}",
    "sublayers.ffn.norm.{end}": "mlp.final_layer_norm.{end}",
    "sublayers.ffn.linear1.{end}": "mlp.fc1.{end}",
    "sublayers.ffn.linear2.{end}": "mlp.fc2.{end}",
    "sublayers.ffn.activation.weight": "mlp.activation_fn.weight",
}


def _own_resnet(theirs: str) -> Rules:
    """The ResNet of transformers itself (`use_timm_backbone=False`)."""
    rules = []
    units = [("backbone.stem.conv1", f"{theirs}embedder.embedder")]
    for stage in range(4):
        ours = f"backbone.res{stage + 2}.{{i}}."
        block = f"{theirs}encoder.stages.{stage}.layers.{{i}}."
        units.append((f"{ours}shortcut", f"{block}shortcut"))
        units += [(f"{ours}conv{k + 1}", f"{block}layer.{k}") for k in range(3)]
    for conv, unit in units:
        rules.append((f"{conv}.weight", f"{unit}.convolution.weight"))
        rules.append((f"{conv}.norm.{{norm}}", f"{unit}.normalization.{{norm}}"))
    return rules


def _backbone() -> Rules:
    """A ResNet of timm's, to which there is a way back, in a wrapper or not, or of transformers."""
    return [*resnet(BACKBONE), *resnet(f"{BACKBONE}_backbone."), *_own_resnet(BACKBONE)]


def _one_map() -> Rules:
    return [
        *_backbone(),
        ("neck.projection.{end}", "model.input_projection.{end}"),
        ("decoder.output_norm.{end}", "model.decoder.layernorm.{end}"),
    ]


def detr(_: Sizes) -> Rules:
    """`DetrForObjectDetection`."""
    return [
        *_one_map(),
        *layers(MODEL, DENSE_ENCODER, DETR_DECODER),
        ("query_initializer.position", "model.query_position_embeddings.weight"),
        *one_head("class_labels_classifier", "bbox_predictor"),
    ]


def conditional_detr(_: Sizes) -> Rules:
    """`ConditionalDetrForObjectDetection`."""
    return [
        *_one_map(),
        *layers(MODEL, DENSE_ENCODER, CONDITIONAL_DECODER),
        ("query_initializer.position", "model.query_position_embeddings.weight"),
        *conditional_queries("model.decoder."),
        *one_head("class_labels_classifier", "bbox_predictor"),
    ]


def dab_detr(_: Sizes) -> Rules:
    """`DabDetrForObjectDetection`."""
    return [
        *resnet(f"{BACKBONE}_backbone."),
        *_one_map(),
        *layers(MODEL, DAB_ENCODER, DAB_DECODER),
        (ANCHORS, "model.query_refpoint_embeddings.weight"),
        *anchor_queries(MODEL),
        *one_head("class_embed", "bbox_predictor"),
    ]


def deformable_detr(sizes: Sizes) -> Rules:
    """`DeformableDetrForObjectDetection`, one- and two-stage."""
    return [
        *_backbone(),
        *neck("model.level_embed", "model.input_proj", sizes),
        *layers(MODEL, DEFORMABLE_ENCODER, DEFORMABLE_DECODER),
        (QUERIES, "model.query_position_embeddings.weight"),
        *proposals(MODEL),
        *layer_heads(sizes),
    ]
