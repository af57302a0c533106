"""Convert state dicts, and take them back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, listed
from .layouts import LAYOUTS, Layout, recognise
from .rules import DENOISING_LABELS, Sizes, State, compile_rules, measure, rename

# COCO's 80 categories have ids from 1 to 90; published heads have a row for each id, and row 0.
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_ROWS = 91
CLASSES = ("coco91", "keep")


def convert_state_dict(
    state_dict: State, source: str, classes: str = "keep", all_queries: bool = False
) -> dict[str, Tensor]:
    """Weights of a published implementation, by our names.

    Args:
        source: one of `LAYOUTS`.
        classes: "keep" takes all rows of the class heads; "coco91" takes those of COCO's 80
            categories from heads with a row an id, and of a proposals' head whose row 0 is the
            objectness the first 80.
        all_queries: keep the queries that are unused at inference too (H-DETR's one-to-many
            branch).

    Returns:
        Tensors of the source, not copied where they stay whole.

    Raises:
        CheckpointError: names another layout that the source has, what is unknown, what differs
            from what it should repeat, or class heads that have other rows.
        ConfigError: there is no such layout, or no such choice of classes.
    """
    dropped = _layout(source).dropped
    if classes not in CLASSES:
        raise ConfigError(f"classes must be one of {list(CLASSES)}, got '{classes}'")
    state = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    state = {k: v for k, v in state.items() if not re.fullmatch(dropped, k)}
    layout = _layout_of(state, source)
    sizes = measure(state)
    state = _without_copies(state, layout, sizes)
    if layout.extra_queries and not all_queries and layout.queries in state:
        queries = state[layout.queries]
        if len(queries) > layout.extra_queries:
            state[layout.queries] = queries[: -layout.extra_queries]
    rules = [(theirs, ours) for ours, theirs in layout.rules(sizes)]
    result = _renamed(state, rules, f"are unknown in a checkpoint of {source}")
    for step in layout.arranged:
        result = step.to_ours(result, sizes)
    return _coco_rows(result, layout) if classes == "coco91" else result


def revert_state_dict(state_dict: State, target: str = "ms-detr") -> dict[str, Tensor]:
    """Our weights by a published implementation's names, copies included: the way back.

    Raises:
        CheckpointError: names what has no place there; or class heads have 80 rows, of which the
            others are lost, or queries are gone (H-DETR).
        ConfigError: there is no such target, or it is no whole detector.
    """
    layout = _layout(target)
    if not layout.detector:
        ways = [name for name, known in LAYOUTS.items() if known.detector]
        raise ConfigError(f"there is no way back to {target}, only to {', '.join(ways)}")
    rows = {len(v) for k, v in state_dict.items() if re.match(r"decoder\.class_heads\.", k)}
    if rows == {len(COCO_IDS) + layout.background} and layout.classes == "coco91":
        raise CheckpointError(
            "the class heads have COCO's 80 rows; published ones have 91, and the rest is lost"
        )
    sizes = measure(state_dict)
    state = dict(state_dict)
    for step in reversed(layout.arranged):
        state = step.to_theirs(state, sizes)
    result = _renamed(state, layout.rules(sizes), f"have no place in {target}")
    if len(result.get(layout.queries, ())) in range(1, layout.extra_queries + 1):
        raise CheckpointError(
            f"there is no way back to {target}: its last {layout.extra_queries} queries are gone; "
            "convert with all queries"
        )
    return result | dict(_copies(result, layout, sizes))


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ConfigError(f"no layout '{name}'; there are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _layout_of(state: State, source: str) -> Layout:
    """The source's layout, or one that it takes; a checkpoint known to be another's is refused."""
    found = recognise(state)
    if found is None or LAYOUTS[found] is LAYOUTS[source]:
        return LAYOUTS[source]
    if found in LAYOUTS[source].takes:
        return LAYOUTS[found]
    raise CheckpointError(f"this is a checkpoint of {found}, by its names, not of {source}")


def _renamed(state: State, rules: list[tuple[str, str]], unknown: str) -> dict[str, Tensor]:
    """All tensors by their new names; `unknown` says what is wrong with those that have none."""
    compiled = compile_rules(rules)
    names = {name: rename(name, compiled) for name in state}
    if nameless := [name for name, new in names.items() if new is None]:
        raise CheckpointError(f"{len(nameless)} tensors {unknown}: {listed(nameless)}")
    result: dict[str, Tensor] = {}
    for name, new in names.items():
        if new in result:
            first = next(other for other in names if names[other] == new)
            raise CheckpointError(f"{first} and {name} are both {new}")
        result[str(new)] = state[name]
    return result


def _without_copies(state: State, layout: Layout, sizes: Sizes) -> dict[str, Tensor]:
    """Every tensor once; a copy whose original was left out stands for it."""
    rules = compile_rules(rule for copies in layout.copies for rule in copies.rules(sizes))
    result = {name: tensor for name, tensor in state.items() if rename(name, rules) is None}
    for name, tensor in state.items():
        original = rename(name, rules)
        if original is not None and not torch.equal(result.setdefault(original, tensor), tensor):
            raise CheckpointError(f"{name} is expected to repeat {original}, and does not")
    return result


def _copies(state: State, layout: Layout, sizes: Sizes) -> Iterator[tuple[str, Tensor]]:
    """What the published code saves twice."""
    rules = compile_rules(
        (original, copy)
        for copies in layout.copies
        if copies.saved(state)
        for copy, original in copies.rules(sizes)
    )
    for name, tensor in state.items():
        for rule in rules:
            if copy := rename(name, [rule]):
                yield copy, tensor


def _coco_rows(state: State, layout: Layout) -> dict[str, Tensor]:
    """Class heads of 91 rows cut to 80, and label embeddings, which have a row more."""
    heads = r"(decoder\.(?:tap_)?class_heads\..*|query_initializer\.class_head)\.(?:weight|bias)"
    things, rows = COCO_IDS, COCO_ROWS
    if layout.background:
        things = (*COCO_IDS, COCO_ROWS)
    if layout.background or layout.spare:
        rows = COCO_ROWS + 1
    result = dict(state)
    for name, tensor in state.items():
        if re.fullmatch(heads, name):
            if len(tensor) != rows:
                raise CheckpointError(
                    f"{name} has {len(tensor)} rows, not {rows}: convert with classes 'keep'"
                )
            first = layout.objectness and not name.startswith("decoder.")
            result[name] = tensor[torch.tensor(range(len(COCO_IDS)) if first else things)]
    if DENOISING_LABELS in state:
        rows_of_labels = torch.tensor([*COCO_IDS, COCO_ROWS])  # the last one stands for no class
        result[DENOISING_LABELS] = state[DENOISING_LABELS][rows_of_labels]
    return result
