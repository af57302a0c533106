"""Convert state dicts, and take them back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .layouts import LAYOUTS, Layout
from .rules import DENOISING_LABELS, State, compile_rules, measure, rename

# COCO's 80 categories have ids from 1 to 90; published heads have a row for each id, and row 0.
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_ROWS = 91
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
    rules = compile_rules((theirs, ours) for ours, theirs in layout.rules(measure(state)))
    result, unknown = {}, []
    for name, tensor in state.items():
        if name == layout.queries:
            result.update(_queries(tensor, state, layout))
        elif original := _original(name, layout):
            if original not in state or not torch.equal(tensor, state[original]):
                raise ValueError(f"{name} is expected to repeat {original}, and does not")
        elif new := rename(name, rules):
            result[new] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors are unknown in a checkpoint of {source}: {_some(unknown)}"
        )
    if not layout.spare_label and DENOISING_LABELS in result:
        result[DENOISING_LABELS] = F.pad(result[DENOISING_LABELS], (0, 0, 0, 1))  # never read
    return _coco_rows(result, layout.objectness) if classes == "coco91" else result


def revert_state_dict(state_dict: State, target: str = "ms-detr") -> dict[str, Tensor]:
    """Our weights by a published implementation's names, copies included: the way back.

    Raises:
        ValueError: names what has no place there; class heads of 80 rows, whose other rows are
            lost; or a target that is no whole detector, or keeps queries that are gone (H-DETR).
    """
    layout = _layout(target)
    if target not in _ways_back():
        raise ValueError(f"there is no way back to {target}, only to {', '.join(_ways_back())}")
    rows = {len(v) for k, v in state_dict.items() if re.match(r"decoder\.class_heads\.", k)}
    if rows == {len(COCO_IDS)} and layout.classes == "coco91":
        raise ValueError(
            "the class heads have COCO's 80 rows; published ones have 91, and the rest is lost"
        )
    state = dict(state_dict)
    result = {}
    if not layout.spare_label and DENOISING_LABELS in state:
        state[DENOISING_LABELS] = state[DENOISING_LABELS][:-1]
    content = state.pop("query_initializer.content", None)
    position = state.pop("query_initializer.position", None)
    if content is not None:
        parts = (content,) if position is None else (position, content)
        result[layout.queries] = torch.cat(parts, 1)
    rules = compile_rules(layout.rules(measure(state)))
    unknown = []
    for name, tensor in state.items():
        new = rename(name, rules)
        if new is None:
            unknown.append(name)
        else:
            result[new] = tensor
    if unknown:
        raise ValueError(f"{len(unknown)} tensors have no place in {target}: {_some(unknown)}")
    return result | dict(_make_copies(result, layout))


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _ways_back() -> list[str]:
    """Layouts of whole detectors that keep all queries."""
    return [name for name, known in LAYOUTS.items() if known.copies and not known.extra_queries]


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ValueError(f"no layout '{name}'; there are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


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
    levels = next((v for k, v in state.items() if k.startswith("transformer.level_embed")), None)
    if levels is None:
        raise ValueError(
            f"{layout.queries} is there without transformer.level_embed: this is no checkpoint of "
            "a detector with several feature levels, and no other is known"
        )
    if tensor.shape[1] == levels.shape[1]:
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
