"""Published implementations, by how they name and arrange their tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .rules import (
    DETREX_DECODER,
    DETREX_ENCODER,
    MS_DETR_DECODER,
    OFFICIAL_DECODER,
    OFFICIAL_ENCODER,
    Rules,
    Sizes,
    box_head,
    detrex_neck,
    dino_additions,
    layers,
    official_neck,
    queries_and_heads,
    resnet,
    swin,
    swin_maps,
)

# Queries that only H-DETR's one-to-many branch uses, behind the others.
H_DETR_EXTRA = 1500
BODY = "backbone.0.body."


def _deformable_detr(sizes: Sizes) -> Rules:
    return [
        *resnet(BODY),
        *swin(BODY),
        *swin_maps(BODY),
        *official_neck(sizes),
        *layers(OFFICIAL_ENCODER, OFFICIAL_DECODER),
        *queries_and_heads(sizes),
    ]


def _ms_detr(sizes: Sizes) -> Rules:
    return [
        *layers(OFFICIAL_ENCODER, MS_DETR_DECODER),
        *_deformable_detr(sizes),
        # Implementation (a).
        ("decoder.tap_class_heads.ffn.{i}.{end}", "class_embed_o2m.{i}.{end}"),
    ]


def _dino(sizes: Sizes) -> Rules:
    start = "query_initializer."
    return [
        *dino_additions(),
        *swin("backbone.0."),
        *swin_maps("backbone.0."),
        (f"{start}class_head.{{end}}", "transformer.enc_out_class_embed.{end}"),
        *box_head(f"{start}box_head", "transformer.enc_out_bbox_embed"),
        *_deformable_detr(sizes),
    ]


def _detrex(sizes: Sizes) -> Rules:
    return [
        ("backbone.{resnet}", "backbone.{resnet}"),
        *detrex_neck(sizes),
        *layers(DETREX_ENCODER, DETREX_DECODER),
        *queries_and_heads(sizes),
    ]


def _detrex_dino(sizes: Sizes) -> Rules:
    return [*dino_additions(), *_detrex(sizes)]


@dataclass(frozen=True)
class Layout:
    """How an implementation names its tensors.

    Attributes:
        rules: for a model of these sizes.
        copies: starts of names that repeat others; the start that those have; the start of the
            heads whose number a copy has to have, too.
        dropped: pattern of names that carry nothing for us.
        queries: name of the learned queries.
        extra_queries: of the learned content, at its end, unused at inference.
        objectness: whether row 0 of the proposals' class head is the objectness.
        classes: what published class heads need, see `convert_state_dict`.
        spare_label: the embedding of labels has a row for no class, as ours.
    """

    rules: Callable[[Sizes], Rules]
    copies: tuple[tuple[str, str, str], ...] = ()
    dropped: str = r".*\.(?:num_batches_tracked|relative_position_index)|.*total_(?:params|ops)"
    queries: str = "query_embed.weight"
    extra_queries: int = 0
    objectness: bool = True
    classes: str = "coco91"
    spare_label: bool = True


IN_DECODER = (
    ("transformer.decoder.class_embed.", "class_embed.", "class_embed."),
    ("transformer.decoder.bbox_embed.", "bbox_embed.", "class_embed."),
)
# Implementation (a): the proposals' head, the last, serves no layer.
FOR_ONE_TO_MANY = ("bbox_embed_o2m.", "bbox_embed.", "class_embed_o2m.")
# Both of DINO's call them so.
CONTENT = "transformer.tgt_embed.weight"
LAYOUTS = {
    "ms-detr": Layout(_ms_detr, (*IN_DECODER, FOR_ONE_TO_MANY)),
    "deformable-detr": Layout(_deformable_detr, IN_DECODER),
    "h-detr": Layout(_deformable_detr, IN_DECODER, extra_queries=H_DETR_EXTRA),
    "dino": Layout(_dino, IN_DECODER, queries=CONTENT, objectness=False),
    "detrex": Layout(_detrex, IN_DECODER, queries="query_embedding.weight", classes="keep"),
    "detrex-dino": Layout(
        _detrex_dino, IN_DECODER, queries=CONTENT, classes="keep", spare_label=False
    ),
    "torchvision": Layout(
        lambda _: resnet(""), dropped=r".*\.num_batches_tracked|fc\..*", classes="keep"
    ),
    "swin": Layout(
        lambda _: swin(""),
        dropped=r".*\.(?:relative_position_index|attn_mask)|norm\..*|head\..*",
        classes="keep",
    ),
}
