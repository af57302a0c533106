"""State dicts of published implementations, to ours and back.

Strict both ways: every tensor of the source is used, is a known copy of one that is, or is named in
an error. Names and shapes: the official repositories of Deformable DETR, H-DETR, MS-DETR and DINO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]

# COCO's 80 categories have ids from 1 to 90; published heads have a row for each id, and row 0.
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_ROWS = 91
# Queries that only H-DETR's one-to-many branch uses, behind the others.
H_DETR_EXTRA = 1500

# Where contrastive denoising keeps its embedding of labels.
DENOISING_LABELS = "groups.denoising.embedding.weight"
POSITION_MLP = "transformer.decoder.ref_point_head"

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
}
# (ours, theirs). Of rules that fit a name the first one counts.
Rules = list[tuple[str, str]]


def _backbone(theirs: str) -> Rules:
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


def _swin(_: int) -> Rules:
    """Published Swin Transformers (arXiv:2103.14030) as `TimmBackbone` has them.

    A stage that ends with the merging of patches is one that the next begins with.
    """
    body = "backbone.body."
    return [
        (f"{body}patch_embed.{{patch}}", "patch_embed.{patch}"),
        (f"{body}layers_{{i}}.blocks.{{j}}.{{window}}", "layers.{i}.blocks.{j}.{window}"),
        *(
            (f"{body}layers_{i + 1}.downsample.{{merge}}", f"layers.{i}.downsample.{{merge}}")
            for i in range(3)
        ),
    ]


def _box_head(ours: str, theirs: str) -> Rules:
    return [(f"{ours}.{2 * k}.{{end}}", f"{theirs}.layers.{k}.{{end}}") for k in range(3)]


def _transformer(num_layers: int) -> Rules:
    encoder, their_encoder = "encoder.layers.{i}.", "transformer.encoder.layers.{i}."
    decoder, their_decoder = "decoder.layers.{i}.sublayers.", "transformer.decoder.layers.{i}."
    start = "query_initializer."
    rules = [
        ("neck.level_embedding", "transformer.level_embed"),
        ("neck.extra_levels.0.{j}.{end}", "input_proj.3.{j}.{end}"),
        ("neck.projections.{i}.{j}.{end}", "input_proj.{i}.{j}.{end}"),
        (f"{encoder}attention.attention.{{attention}}", f"{their_encoder}self_attn.{{attention}}"),
        (f"{encoder}attention.norm.{{end}}", f"{their_encoder}norm1.{{end}}"),
        (f"{encoder}ffn.norm.{{end}}", f"{their_encoder}norm2.{{end}}"),
        (
            f"{decoder}cross_attention.attention.{{attention}}",
            f"{their_decoder}cross_attn.{{attention}}",
        ),
        (
            f"{decoder}self_attention.attention.{{multihead}}",
            f"{their_decoder}self_attn.{{multihead}}",
        ),
        (f"{decoder}cross_attention.norm.{{end}}", f"{their_decoder}norm1.{{end}}"),
        (f"{decoder}self_attention.norm.{{end}}", f"{their_decoder}norm2.{{end}}"),
        (f"{decoder}ffn.norm.{{end}}", f"{their_decoder}norm3.{{end}}"),
        (f"{start}token_projection.{{end}}", "transformer.enc_output.{end}"),
        (f"{start}token_norm.{{end}}", "transformer.enc_output_norm.{end}"),
        (f"{start}query_projection.{{end}}", "transformer.pos_trans.{end}"),
        (f"{start}query_norm.{{end}}", "transformer.pos_trans_norm.{end}"),
        (f"{start}reference_points.{{end}}", "transformer.reference_points.{end}"),
        # The head behind those of the layers is the proposals'.
        (f"{start}class_head.{{end}}", f"class_embed.{num_layers}.{{end}}"),
        *_box_head(f"{start}box_head", f"bbox_embed.{num_layers}"),
        ("decoder.class_heads.{i}.{end}", "class_embed.{i}.{end}"),
        *_box_head("decoder.box_heads.{i}", "bbox_embed.{i}"),
    ]
    for k in (1, 2):
        rules += [
            (f"{encoder}ffn.linear{k}.{{end}}", f"{their_encoder}linear{k}.{{end}}"),
            (f"{decoder}ffn.linear{k}.{{end}}", f"{their_decoder}linear{k}.{{end}}"),
        ]
    return rules


def _deformable_detr(num_layers: int) -> Rules:
    return [*_backbone("backbone.0.body."), *_transformer(num_layers)]


def _ms_detr(num_layers: int) -> Rules:
    tap, theirs = "decoder.layers.{i}.taps.cross_attention.ffn.", "transformer.decoder.layers.{i}."
    return [
        *_deformable_detr(num_layers),
        (f"{tap}norm.{{end}}", f"{theirs}norm4.{{end}}"),
        (f"{tap}linear1.{{end}}", f"{theirs}linear3.{{end}}"),
        (f"{tap}linear2.{{end}}", f"{theirs}linear4.{{end}}"),
        # Implementation (a).
        ("decoder.tap_class_heads.ffn.{i}.{end}", "class_embed_o2m.{i}.{end}"),
    ]


def _dino(num_layers: int) -> Rules:
    start = "query_initializer."
    return [
        (DENOISING_LABELS, "label_enc.weight"),
        ("decoder.output_norm.{end}", "transformer.decoder.norm.{end}"),
        (f"{start}class_head.{{end}}", "transformer.enc_out_class_embed.{end}"),
        *_box_head(f"{start}box_head", "transformer.enc_out_bbox_embed"),
        *(
            (f"{start}position.mlp.{2 * k}.{{end}}", f"{POSITION_MLP}.layers.{k}.{{end}}")
            for k in range(2)
        ),
        *_deformable_detr(num_layers),
    ]


@dataclass(frozen=True)
class Layout:
    """How an implementation names its tensors.

    Attributes:
        rules: for a number of decoder layers.
        copies: starts of names that repeat others; the start that those have; the start of the
            heads whose number a copy has to have, too.
        dropped: pattern of names that carry nothing for us.
        queries: name of the learned queries.
        extra_queries: of the learned content, at its end, unused at inference.
        objectness: whether row 0 of the proposals' class head is the objectness.
    """

    rules: Callable[[int], Rules]
    copies: tuple[tuple[str, str, str], ...] = ()
    dropped: str = r".*\.num_batches_tracked|.*total_(?:params|ops)"
    queries: str = "query_embed.weight"
    extra_queries: int = 0
    objectness: bool = True


IN_DECODER = (
    ("transformer.decoder.class_embed.", "class_embed.", "class_embed."),
    ("transformer.decoder.bbox_embed.", "bbox_embed.", "class_embed."),
)
# Implementation (a): the proposals' head, the last, serves no layer.
FOR_ONE_TO_MANY = ("bbox_embed_o2m.", "bbox_embed.", "class_embed_o2m.")
LAYOUTS = {
    "ms-detr": Layout(_ms_detr, (*IN_DECODER, FOR_ONE_TO_MANY)),
    "deformable-detr": Layout(_deformable_detr, IN_DECODER),
    "h-detr": Layout(_deformable_detr, IN_DECODER, extra_queries=H_DETR_EXTRA),
    "dino": Layout(_dino, IN_DECODER, queries="transformer.tgt_embed.weight", objectness=False),
    "torchvision": Layout(lambda _: _backbone(""), dropped=r".*\.num_batches_tracked|fc\..*"),
    "swin": Layout(_swin, dropped=r".*\.(?:relative_position_index|attn_mask)|norm\..*|head\..*"),
}
CLASSES = ("coco91", "keep")


def convert_state_dict(state_dict: State, source: str, classes: str = "keep") -> dict[str, Tensor]:
    """Weights of a published implementation, by our names.

    Args:
        source: one of `LAYOUTS`.
        classes: "keep" takes all rows of the class heads; "coco91" takes those of COCO's 80
            categories from heads with a row an id, and of a proposals' head whose row 0 is the
            objectness the first 80.

    Returns:
        Tensors of the source, not copied where they stay whole.

    Raises:
        ValueError: names what is unknown, what differs from what it should repeat, or class heads
            that have other rows.
    """
    layout = _layout(source)
    if classes not in CLASSES:
        raise ValueError(f"classes must be one of {list(CLASSES)}, got '{classes}'")
    state = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    state = {k: v for k, v in state.items() if not re.fullmatch(layout.dropped, k)}
    rules = _compile((theirs, ours) for ours, theirs in layout.rules(_count_layers(state)))
    result, unknown = {}, []
    for name, tensor in state.items():
        if name == layout.queries:
            result.update(_queries(tensor, state, layout))
        elif original := _original(name, layout):
            if original not in state or not torch.equal(tensor, state[original]):
                raise ValueError(f"{name} is expected to repeat {original}, and does not")
        elif new := _rename(name, rules):
            result[new] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors are unknown in a checkpoint of {source}: {', '.join(unknown)}"
        )
    return _coco_rows(result, layout.objectness) if classes == "coco91" else result


def revert_state_dict(state_dict: State, target: str = "ms-detr") -> dict[str, Tensor]:
    """Our weights by a published implementation's names, copies included: the way back.

    Raises:
        ValueError: names what has no place there; class heads of 80 rows, whose other rows are
            lost; or torchvision and H-DETR as targets.
    """
    layout = _layout(target)
    if not layout.copies or layout.extra_queries:
        raise ValueError(
            f"there is no way back to {target}, only to ms-detr, deformable-detr and dino"
        )
    rows = {len(v) for k, v in state_dict.items() if re.match(r"decoder\.class_heads\.", k)}
    if rows == {len(COCO_IDS)}:
        raise ValueError(
            "the class heads have COCO's 80 rows; published ones have 91, and the rest is lost"
        )
    state = dict(state_dict)
    result = {}
    content = state.pop("query_initializer.content", None)
    position = state.pop("query_initializer.position", None)
    if content is not None:
        parts = (content,) if position is None else (position, content)
        result[layout.queries] = torch.cat(parts, 1)
    rules = _compile(layout.rules(_count_layers(state, "decoder.layers.")))
    unknown = []
    for name, tensor in state.items():
        new = _rename(name, rules)
        if new is None:
            unknown.append(name)
        else:
            result[new] = tensor
    if unknown:
        raise ValueError(f"{len(unknown)} tensors have no place in {target}: {', '.join(unknown)}")
    return result | dict(_make_copies(result, layout))


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ValueError(f"no layout '{name}'; there are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _count_layers(state: State, start: str = "transformer.decoder.layers.") -> int:
    pattern = re.compile(re.escape(start) + r"(\d+)\.")
    return 1 + max((int(found[1]) for name in state if (found := pattern.match(name))), default=-1)


def _compile(rules: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """(pattern of the source's name, template of the target's)."""
    compiled = []
    for source, target in rules:
        pattern = re.escape(source)
        for part, expression in PARTS.items():
            pattern = pattern.replace(re.escape(f"{{{part}}}"), f"(?P<{part}>{expression})")
        compiled.append((re.compile(pattern), target))
    return compiled


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        if found := pattern.fullmatch(name):
            return template.format(**found.groupdict())
    return None


def _original(name: str, layout: Layout) -> str | None:
    """The name that this one repeats, if it does."""
    for start, original, _ in layout.copies:
        if name.startswith(start):
            return original + name.removeprefix(start)
    return None


def _make_copies(state: State, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """What the published code saves twice."""
    for start, original, beside in layout.copies:
        for name, tensor in state.items():
            end = name.removeprefix(original)
            if end != name and f"{beside}{end.split('.')[0]}.weight" in state:
                yield start + end, tensor


def _queries(tensor: Tensor, state: State, layout: Layout) -> dict[str, Tensor]:
    """Learned queries: content alone (mixed selection), or position and content (one stage)."""
    if layout.extra_queries and len(tensor) > layout.extra_queries:
        tensor = tensor[: -layout.extra_queries]
    if tensor.shape[1] == state["transformer.level_embed"].shape[1]:
        return {"query_initializer.content": tensor}
    position, content = tensor.chunk(2, 1)
    return {"query_initializer.position": position, "query_initializer.content": content}


def _coco_rows(state: State, objectness: bool) -> dict[str, Tensor]:
    """Class heads of 91 rows cut to 80, and label embeddings, which have a row more."""
    heads = r"(decoder\.(?:tap_)?class_heads\..*|query_initializer\.class_head)\.(?:weight|bias)"
    result = dict(state)
    for name, tensor in state.items():
        if re.fullmatch(heads, name):
            if len(tensor) != COCO_ROWS:
                raise ValueError(
                    f"{name} has {len(tensor)} rows, not {COCO_ROWS}: convert with classes 'keep'"
                )
            first = objectness and not name.startswith("decoder.")
            result[name] = tensor[torch.tensor(range(len(COCO_IDS)) if first else COCO_IDS)]
    if DENOISING_LABELS in state:
        rows = torch.tensor([*COCO_IDS, COCO_ROWS])  # the last one stands for no class
        result[DENOISING_LABELS] = state[DENOISING_LABELS][rows]
    return result
