"""Published implementations, by how they name and arrange their tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import co_detr, detrex, official, transformers
from .official import TRANSFORMER, WRAPPED
from .rearrange import (
    Columns,
    Indicator,
    JoinedProjections,
    OneHead,
    Rearrangement,
    RepeatedHead,
    SpareRow,
    UnknownLabel,
    embed_dim,
)
from .rules import (
    ANCHORS,
    DENOISING_LABELS,
    QUERIES,
    Rules,
    Sizes,
    State,
    caffe2_resnet,
    efficientnet_lite0,
    resnet,
    swin,
    vit,
)

# Queries that only H-DETR's one-to-many branch uses, behind the others.
H_DETR_EXTRA = 1500


def always(_: State) -> bool:
    """Of every state dict."""
    return True


@dataclass(frozen=True)
class Copies:
    """Names that repeat others: one tensor, saved twice.

    Attributes:
        rules: (name of the copy, name that it repeats).
        saved: whether the published code makes them, from its state dict without copies.
    """

    rules: Callable[[Sizes], Rules]
    saved: Callable[[State], bool] = always


@dataclass(frozen=True)
class Layout:
    """How an implementation names and arranges its tensors.

    Attributes:
        rules: for a model of these sizes.
        own: whether a state dict has the names that tell this layout from the others.
        arranged: what renaming does not do, in the order of converting.
        copies: what is saved twice.
        takes: layouts whose checkpoints count as of this one, and are converted by their own.
        dropped: pattern of names that carry nothing for us.
        detector: a whole one, to which there is a way back.
        queries: name of the learned ones, where some of them are unused at inference:
        extra_queries: so many, at their end.
        objectness: whether row 0 of the proposals' class head is the objectness.
        background: class heads have one row more, the last, for nothing.
        spare: class heads have one row more, the last, of no class, which COCO's classes leave out.
        classes: what published class heads need, see `convert_state_dict`.
    """

    rules: Callable[[Sizes], Rules]
    own: Callable[[State], bool]
    arranged: tuple[Rearrangement, ...] = ()
    copies: tuple[Copies, ...] = ()
    takes: tuple[str, ...] = ()
    dropped: str = r".*\.(?:num_batches_tracked|relative_position_index)|.*total_(?:params|ops)"
    detector: bool = True
    queries: str = ""
    extra_queries: int = 0
    objectness: bool = False
    background: bool = False
    spare: bool = False
    classes: str = "coco91"


def has(*names: str, without: tuple[str, ...] = ()) -> Callable[[State], bool]:
    """Of a state dict: it has all of the names, and none of those it is to be without."""
    return lambda state: state.keys() >= set(names) and state.keys().isdisjoint(without)


def _hybrid(state: State) -> bool:
    """More learned queries than H-DETR's one-to-many branch has for itself."""
    return len(state.get("query_embed.weight", ())) > H_DETR_EXTRA


def _refined(state: State) -> bool:
    """Layers have box heads of their own."""
    biases = [v for k, v in state.items() if k.startswith("bbox_embed.") and k.endswith("2.bias")]
    return any(not torch.equal(biases[0], other) for other in biases[1:])


def _head_copies(start: str) -> tuple[Copies, ...]:
    """The decoder has the box heads that refine boxes, and of two stages all heads."""
    two_stage = has(f"{start}enc_output.weight")
    classes = "class_embed.{i}.{end}"
    return (
        Copies(lambda _: [(f"{start}decoder.{classes}", classes)], two_stage),
        _box_head_copies(start, lambda state: two_stage(state) or _refined(state)),
    )


def _box_head_copies(start: str, saved: Callable[[State], bool] = always) -> Copies:
    """The box heads of all layers are the decoder's as well."""
    boxes = "bbox_embed.{i}.layers.{j}.{end}"
    return Copies(lambda _: [(f"{start}decoder.{boxes}", boxes)], saved)


def _one_box_head(start: str, head: str) -> tuple[Copies, ...]:
    """The box head is the decoder's as well."""
    end = "layers.{j}.{end}"
    return (Copies(lambda _: [(f"{start}decoder.bbox_embed.{end}", f"{head}.{end}")]),)


def _anchors(start: str = "query_initializer.") -> Columns:
    whole = ANCHORS.replace("query_initializer.", start)
    return Columns(whole, (f"{whole}.centers", f"{whole}.sizes"), lambda state: 2)


HEADS = _head_copies("transformer.")
# Implementation (a) of MS-DETR: the proposals' head, the last, serves no layer.
ONE_TO_MANY_HEADS = Copies(
    lambda sizes: [
        (f"bbox_embed_o2m.{k}.layers.{{j}}.{{end}}", f"bbox_embed.{k}.layers.{{j}}.{{end}}")
        for k in range(sizes.layers)
    ],
    has("class_embed_o2m.0.weight"),
)
LEARNED = Columns(QUERIES, ("query_initializer.position", "query_initializer.content"), embed_dim)

# Names of a first layer, or beside the layers, by which layouts are told apart.
LEVELS = ("transformer.level_embed", "transformer.decoder.layers.0.norm1.weight")
LABELS, ANCHORED = "label_enc.weight", "refpoint_embed.weight"
FOR_ONE_TO_MANY = ("transformer.decoder.layers.0.linear3.weight", "class_embed_o2m.0.weight")
SELECTED = "transformer.enc_out_class_embed.weight"
CONDITIONAL = "transformer.decoder.layers.0.ca_qcontent_proj.weight"
MODULATED = "transformer.decoder.ref_anchor_head.layers.0.weight"
OFFSETS = "transformer.decoder.layers.0.point2.weight"
POINTS = "transformer.decoder.layers.0.point2.0.weight"

_plain = has(*LEVELS, without=(*FOR_ONE_TO_MANY, SELECTED, LABELS, ANCHORED, POINTS))
_detrex_dino = Layout(
    detrex.dino,
    has("transformer.level_embeds", LABELS),
    (SpareRow(DENOISING_LABELS),),
    HEADS,
    classes="keep",
)
_detrex_conditional = Layout(
    detrex.conditional_detr,
    has(
        "transformer.decoder.layers.0.attentions.0.query_content_proj.weight", "query_embed.weight"
    ),
    (OneHead(),),
    classes="keep",
)
_CO_DETR = (
    SpareRow(DENOISING_LABELS),
    co_detr.NumberedHeads(),
    co_detr.MovedContent(),
    co_detr.ANCHOR_ORDER,
    co_detr.CLASS_DELTAS,
)
LAYOUTS = {
    "ms-detr": Layout(
        official.ms_detr,
        lambda state: state.keys() >= set(LEVELS) and not state.keys().isdisjoint(FOR_ONE_TO_MANY),
        (LEARNED,),
        (*HEADS, ONE_TO_MANY_HEADS),
        takes=("deformable-detr",),  # without the auxiliary feed-forward networks
        objectness=True,
    ),
    "deformable-detr": Layout(
        official.deformable_detr,
        lambda state: _plain(state) and not _hybrid(state),
        (LEARNED,),
        HEADS,
        objectness=True,
    ),
    "h-detr": Layout(
        official.deformable_detr,
        lambda state: _plain(state) and _hybrid(state),
        (LEARNED,),
        HEADS,
        takes=("deformable-detr",),  # without learned queries
        queries="query_embed.weight",
        extra_queries=H_DETR_EXTRA,
        objectness=True,
    ),
    "dino": Layout(official.dino, has(*LEVELS, SELECTED), (), HEADS),
    "dab-deformable-detr": Layout(
        official.dab_deformable_detr,
        has(*LEVELS, ANCHORED, without=(LABELS,)),
        (_anchors(),),
        HEADS,
    ),
    "dn-deformable-detr": Layout(
        lambda sizes: official.denoising(official.dab_deformable_detr(sizes)),
        has(*LEVELS, ANCHORED, LABELS),
        (_anchors(WRAPPED), Indicator(f"{WRAPPED}content")),
        HEADS,
    ),
    "detr": Layout(
        official.detr,
        has("transformer.decoder.layers.0.multihead_attn.in_proj_weight", without=(OFFSETS,)),
        (OneHead(),),
        background=True,
    ),
    "smca-detr": Layout(official.smca_detr, has(OFFSETS), (OneHead(),), spare=True),
    "sam-detr": Layout(official.sam_detr, has(POINTS), copies=(_box_head_copies(TRANSFORMER),)),
    "conditional-detr": Layout(
        official.conditional_detr,
        has(CONDITIONAL, without=(ANCHORED, MODULATED, LABELS, POINTS)),
        (OneHead(),),
    ),
    "dab-detr": Layout(
        official.dab_detr,
        has(CONDITIONAL, ANCHORED, MODULATED, without=(LABELS,)),
        (OneHead(), _anchors()),
        _one_box_head("transformer.", "bbox_embed"),
    ),
    "dn-detr": Layout(
        lambda sizes: official.denoising(official.dab_detr(sizes)),
        has(CONDITIONAL, ANCHORED, MODULATED, LABELS),
        (
            OneHead(),
            _anchors(WRAPPED),
            UnknownLabel(DENOISING_LABELS, f"{WRAPPED}content"),
            Indicator(f"{WRAPPED}content"),
        ),
        _one_box_head("transformer.", "bbox_embed"),
    ),
    "detrex": Layout(
        detrex.deformable_detr,
        has("transformer.level_embeds", without=(LABELS,)),
        (LEARNED,),
        HEADS,
        classes="keep",
    ),
    "detrex-dino": _detrex_dino,
    "align-detr": _detrex_dino,  # built on it, and so named as it
    "detrex-conditional-detr": _detrex_conditional,
    "group-detr": _detrex_conditional,
    "co-detr": Layout(
        co_detr.co_detr,
        has(co_detr.LEVELS, without=(co_detr.PORTED_LABELS,)),
        _CO_DETR,
        takes=("mmdet-co-dino",),
        classes="keep",
    ),
    "mmdet-co-dino": Layout(
        co_detr.mmdet_co_dino,
        has(co_detr.LEVELS, co_detr.PORTED_LABELS),
        (*_CO_DETR, co_detr.PATCH_ORDER),
        classes="keep",
    ),
    "transformers-detr": Layout(
        transformers.detr,
        has("class_labels_classifier.weight", "model.decoder.layers.0.encoder_attn.q_proj.weight"),
        (JoinedProjections(), OneHead()),
        background=True,
    ),
    "transformers-conditional-detr": Layout(
        transformers.conditional_detr,
        has("model.decoder.layers.0.ca_qcontent_proj.weight"),
        (JoinedProjections(), OneHead()),
    ),
    "transformers-dab-detr": Layout(
        transformers.dab_detr,
        has("model.query_refpoint_embeddings.weight"),
        (JoinedProjections(), OneHead(), _anchors()),
        _one_box_head("model.", "bbox_predictor"),
    ),
    "transformers-deformable-detr": Layout(
        transformers.deformable_detr,
        has("model.level_embed"),
        (JoinedProjections(), RepeatedHead(), LEARNED),
        _head_copies("model."),
        objectness=True,
    ),
    "torchvision": Layout(
        lambda _: resnet(""),
        has("conv1.weight", "bn1.running_var", "layer1.0.conv1.weight"),
        dropped=r".*\.num_batches_tracked|fc\..*",
        detector=False,
        classes="keep",
    ),
    # ResNets of Detectron2's model zoo: those made from torchvision's, and from Caffe2's.
    "detectron2": Layout(
        lambda _: [("backbone.{resnet}", "{resnet}")],
        has("stem.conv1.weight", "res2.0.conv1.weight", "res2.0.conv1.norm.running_var"),
        dropped=r".*\.num_batches_tracked|(?:stem\.)?fc\..*",
        detector=False,
        classes="keep",
    ),
    "caffe2": Layout(
        lambda _: caffe2_resnet(),
        has("conv1_w", "res2_0_branch2a_w"),
        # The bias of a convolution before a norm: Detectron2 leaves it out, too.
        dropped=r"conv1_b|fc1000_[wb]|pred_[wb]|lr|.*_momentum",
        detector=False,
        classes="keep",
    ),
    # Behind the map there is a norm that detectors leave out, and MAE's decoder.
    "vit": Layout(
        lambda _: vit(),
        has("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        dropped=r"(?:fc_)?norm\..*|head\..*|mask_token|decoder_.*",
        detector=False,
        classes="keep",
    ),
    # Of the larger ones, which have more blocks, and of those with squeeze-and-excitation, none.
    "efficientnet-lite0": Layout(
        lambda _: efficientnet_lite0(),
        has(
            "_conv_stem.weight",
            "_blocks.15._project_conv.weight",
            without=("_blocks.16._project_conv.weight", "_blocks.0._se_reduce.weight"),
        ),
        dropped=r".*\.num_batches_tracked|_conv_head\..*|_bn1\..*|_fc\..*",
        detector=False,
        classes="keep",
    ),
    "swin": Layout(
        lambda _: swin(""),
        has("patch_embed.proj.weight", "layers.0.downsample.reduction.weight"),
        dropped=r".*\.(?:relative_position_index|attn_mask)|norm\..*|head\..*",
        detector=False,
        classes="keep",
    ),
}


def recognise(state: State) -> str | None:
    """The layout that a state dict has, by names that only it has; None for our own or others."""
    return next((name for name, layout in LAYOUTS.items() if layout.own(state)), None)
