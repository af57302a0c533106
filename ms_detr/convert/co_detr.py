"""Names in Co-DETR's code, which is mmdetection 2's, and of Co-DINO in mmdetection 3's projects.

Heads and their queries are named here and numbered there, Faster R-CNN's before ATSS's.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..errors import CheckpointError
from .detrex import DEFORMABLE_DECODER, DEFORMABLE_ENCODER, channel_mapper
from .rearrange import Reordered
from .rules import (
    DENOISING_LABELS,
    Rules,
    Sizes,
    State,
    layers,
    proposals,
    resnet,
    swin,
    swin_maps,
)

HEAD = "query_head."
TRANSFORMER = f"{HEAD}transformer."
LEVELS = f"{TRANSFORMER}level_embeds"
PORTED_LABELS = f"{HEAD}dn_generator.label_embedding.weight"
CONTENT = "query_initializer.content"
# Before they are arranged.
DINO_CONTENT = "query_initializer.content_of_dino"
HEAD_EMBEDDINGS = "groups.head_embeddings"


class NumberedHeads:
    """Queries of heads have names here; numbers there, and one tensor has a row for each head."""

    NAMES = ("rcnn", "atss")
    GROUP = re.compile(r"groups\.(\d+)\.(.*)")

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        names = self._names(state)
        result: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if name == HEAD_EMBEDDINGS:
                for number, row in enumerate(tensor.split(1)):
                    result[f"groups.{_at(names, number)}.encoding.head_embedding"] = row
            elif found := self.GROUP.fullmatch(name):
                result[f"groups.{_at(names, int(found[1]))}.{found[2]}"] = tensor
            else:
                result[name] = tensor
        return result

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        embeddings = []
        names = self._names(state)
        for number, head in enumerate(names):
            start = f"groups.{head}."
            for name in [name for name in state if name.startswith(start)]:
                tensor, end = result.pop(name), name.removeprefix(start)
                if end == "encoding.head_embedding":
                    embeddings.append(tensor)
                else:
                    result[f"groups.{number}.{end}"] = tensor
        if len(embeddings) not in (0, len(names)):
            raise CheckpointError(f"not all heads of {names} have queries with a head_embedding")
        if embeddings:
            result[HEAD_EMBEDDINGS] = torch.cat(embeddings)
        return result

    def _names(self, state: State) -> list[str]:
        """Heads that are there, in the order of their numbers."""
        starts = {name: f"auxiliary.heads.{name}." for name in self.NAMES}
        return [
            name for name, start in starts.items() if any(key.startswith(start) for key in state)
        ]


def _at(names: list[str], number: int) -> str:
    if number >= len(names):
        raise CheckpointError(
            f"there are queries of head {number}, counted from 0, but only these heads: {names}"
        )
    return names[number]


class MovedContent:
    """The learned content is the head's there, but in Co-DINO the transformer's."""

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        if state.keys() >= {CONTENT, DINO_CONTENT}:
            raise CheckpointError("there is the learned content of Co-DINO and another one")
        return {CONTENT if name == DINO_CONTENT else name: x for name, x in state.items()}

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        if not any(name.startswith("query_initializer.position.") for name in state):
            return dict(state)
        return {DINO_CONTENT if name == CONTENT else name: x for name, x in state.items()}


def _other_anchors(x: Tensor) -> Tensor:
    """From (ratio, size, ...), flattened, to (size, ratio, ...), three of each; or back."""
    return x.unflatten(0, (3, 3, -1)).transpose(0, 1).flatten(0, 2)


ANCHOR_ORDER = Reordered(
    r"auxiliary\.heads\.rcnn\.rpn\.head\.(?:objectness_logits|anchor_deltas)\..*",
    _other_anchors,
    _other_anchors,
)
CLASS_DELTAS = Reordered(
    r"auxiliary\.heads\.rcnn\.bbox_pred\..*",
    lambda x: x.unflatten(0, (-1, 4)),
    lambda x: x.flatten(0, 1),
)
# Four neighbours that become one: by channel, row and column there, by column, row and channel in
# Swin Transformer's own code.
PATCH_ORDER = Reordered(
    r"backbone\.body\.layers_\d\.downsample\..*",
    lambda x: x.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3),
    lambda x: x.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3),
)


def co_detr(sizes: Sizes) -> Rules:
    """Co-Deformable-DETR and Co-DINO, as released."""
    return [
        *swin("backbone."),
        (DENOISING_LABELS, f"{HEAD}label_embedding.weight"),
        *_detector(sizes),
    ]


def mmdet_co_dino(sizes: Sizes) -> Rules:
    """Co-DINO in mmdetection 3."""
    return [*_mmdet_swin(), (DENOISING_LABELS, PORTED_LABELS), *_detector(sizes)]


def _detector(sizes: Sizes) -> Rules:
    """All but what differs between the two."""
    return [
        *swin_maps("backbone."),
        *resnet("backbone."),
        *channel_mapper(LEVELS, "gn"),
        *layers(TRANSFORMER, DEFORMABLE_ENCODER, DEFORMABLE_DECODER),
        (CONTENT, f"{HEAD}query_embedding.weight"),
        (DINO_CONTENT, f"{TRANSFORMER}query_embed.weight"),
        (
            "query_initializer.position.mlp.{i}.{end}",
            f"{TRANSFORMER}decoder.ref_point_head.{{i}}.{{end}}",
        ),
        ("decoder.output_norm.{end}", f"{TRANSFORMER}decoder.norm.{{end}}"),
        *proposals(TRANSFORMER),
        *_branches(sizes.layers),
        *_positive_queries(),
        *_rcnn(),
        *_atss(),
    ]


def _branches(last: int) -> Rules:
    """A class and a box head a layer, behind them the proposals'."""
    classes, boxes = f"{HEAD}cls_branches", f"{HEAD}reg_branches"
    return [
        ("query_initializer.class_head.{end}", f"{classes}.{last}.{{end}}"),
        ("query_initializer.box_head.{i}.{end}", f"{boxes}.{last}.{{i}}.{{end}}"),
        ("decoder.class_heads.{i}.{end}", f"{classes}.{{i}}.{{end}}"),
        ("decoder.box_heads.{i}.{j}.{end}", f"{boxes}.{{i}}.{{j}}.{{end}}"),
    ]


def _positive_queries() -> Rules:
    """The encodings of positives, by the numbers of their heads."""
    names = {
        "box_projection": "aux_pos_trans",
        "box_norm": "aux_pos_trans_norm",
        "feature_projection": "pos_feats_trans",
        "feature_norm": "pos_feats_norm",
    }
    return [
        (HEAD_EMBEDDINGS, f"{TRANSFORMER}head_pos_embed.weight"),
        *(
            (f"groups.{{i}}.encoding.{ours}.{{end}}", f"{TRANSFORMER}{theirs}.{{i}}.{{end}}")
            for ours, theirs in names.items()
        ),
    ]


def _rcnn() -> Rules:
    """Region proposal network and box head."""
    names = {
        "rpn.head.conv": "rpn_head.rpn_conv",
        "rpn.head.objectness_logits": "rpn_head.rpn_cls",
        "rpn.head.anchor_deltas": "rpn_head.rpn_reg",
        "box_layers.1": "roi_head.0.bbox_head.shared_fcs.0",
        "box_layers.3": "roi_head.0.bbox_head.shared_fcs.1",
        "cls_score": "roi_head.0.bbox_head.fc_cls",
        "bbox_pred": "roi_head.0.bbox_head.fc_reg",
    }
    return [
        (f"auxiliary.heads.rcnn.{ours}.{{end}}", f"{theirs}.{{end}}")
        for ours, theirs in names.items()
    ]


def _atss() -> Rules:
    """The one-stage head, and the adapter, which serves all heads."""
    ours, theirs = "auxiliary.heads.atss.", "bbox_head.0."
    names = {
        "class_tower.0": "cls_convs.0.conv",
        "class_tower.1": "cls_convs.0.gn",
        "box_tower.0": "reg_convs.0.conv",
        "box_tower.1": "reg_convs.0.gn",
        "class_convs.0": "atss_cls",
        "box_conv": "atss_reg",
        "centerness_conv": "atss_centerness",
    }
    return [
        ("auxiliary.adapter.levels.0.{i}.{end}", f"{HEAD}downsample.{{i}}.{{end}}"),
        *((f"{ours}{name}.{{end}}", f"{theirs}{other}.{{end}}") for name, other in names.items()),
        (f"{ours}scales.{{i}}", f"{theirs}scales.{{i}}.scale"),
    ]


def _mmdet_swin() -> Rules:
    """Swin Transformers by mmdetection's own names."""
    ours, theirs = "backbone.body.", "backbone."
    block = "stages.{i}.blocks.{j}"
    names = {
        "norm1.{end}": "norm1.{end}",
        "norm2.{end}": "norm2.{end}",
        "attn.qkv.{end}": "attn.w_msa.qkv.{end}",
        "attn.proj.{end}": "attn.w_msa.proj.{end}",
        "attn.relative_position_bias_table": "attn.w_msa.relative_position_bias_table",
        "mlp.fc1.{end}": "ffn.layers.0.0.{end}",
        "mlp.fc2.{end}": "ffn.layers.1.{end}",
    }
    return [
        (f"{ours}patch_embed.proj.{{end}}", f"{theirs}patch_embed.projection.{{end}}"),
        (f"{ours}patch_embed.norm.{{end}}", f"{theirs}patch_embed.norm.{{end}}"),
        *(
            (f"{ours}layers_{{i}}.blocks.{{j}}.{name}", f"{theirs}{block}.{other}")
            for name, other in names.items()
        ),
        *(
            (
                f"{ours}layers_{i + 1}.downsample.{{merge}}",
                f"{theirs}stages.{i}.downsample.{{merge}}",
            )
            for i in range(3)
        ),
    ]
