"""The site's reference of config keys: every key of every config, from recipes and docstrings.

A node that makes an object is told apart by its target, whose docstring says what the keys do and
whose signature says of which type they are.
"""

from __future__ import annotations

import inspect
import os
import re
import runpy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from omegaconf import OmegaConf
from site_docstrings import plain

from ms_detr.recipes import coco, run
from ms_detr.recipes.data import small_data

# The five nodes of a config, by the page that has their keys.
NODES = {
    "keys/model.md": ("model",),
    "keys/dataloader.md": ("dataloader",),
    "keys/training.md": ("train", "optimizer", "lr_multiplier"),
}
# What has no target, and whose docstrings say what its keys do.
PLAIN: dict[str, tuple[Any, ...]] = {"train": (run,), "dataloader": (coco, small_data)}
FIRST = "ms_detr/ms_detr_r50_300q_12ep.py"  # its order of keys; what others add follows
MOST = 4  # values of a key that are listed
INTRODUCTION = (
    "Every key of the {total} configs that come with ms_detr, made of the recipes and of the "
    "docstrings of what they configure. Of several defaults the most frequent comes first. "
    "`key=value` on the command line changes one, `+key=value` adds what a docstring names and no "
    "config has: [configs](../configs.md)."
)

Tree = dict[str, Any]


@dataclass
class Node:
    """A key that other keys stand below.

    Attributes:
        key: in full.
        targets: what it makes, by how many configs; None for a mapping.
        values: of each key that stands directly below, by how many configs; a node is itself.
        owners: of each key that stands directly below, the targets that have it.
        types: of each key that stands directly below, those of its values.
        configs: those that have the node.
    """

    key: str
    targets: Counter[Any] = field(default_factory=Counter)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    owners: dict[str, list[Any]] = field(default_factory=dict)
    types: dict[str, list[str]] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)


def read_configs(folder: Path) -> dict[str, Tree]:
    """Every config below a folder as plain containers, by its path there.

    Paths of data are those of an environment without DETECTRON2_DATASETS.
    """
    data = os.environ.pop("DETECTRON2_DATASETS", None)
    try:
        return {
            path.relative_to(folder).as_posix(): _read(path)
            for path in sorted(folder.rglob("*.py"))
        }
    finally:
        if data is not None:
            os.environ["DETECTRON2_DATASETS"] = data


def _read(path: Path) -> Tree:
    names = runpy.run_path(str(path))
    nodes = [name for group in NODES.values() for name in group]
    return {name: OmegaConf.to_container(names[name], resolve=False) for name in nodes}


def collect(configs: Mapping[str, Tree]) -> dict[str, Node]:
    """Every node of the configs, by its key, in the order of `FIRST`."""
    nodes: dict[str, Node] = {}
    for name in sorted(configs, key=lambda name: (name != FIRST, name)):
        for key, tree in configs[name].items():
            _visit(tree, key, name, nodes)
    return nodes


def _visit(tree: Any, key: str, config: str, nodes: dict[str, Node]) -> None:
    node = nodes.setdefault(key, Node(key))
    target = tree.get("_target_") if isinstance(tree, dict) else None
    node.targets[target] += 1
    node.configs.append(config)
    for name, value in children(tree):
        _add(node.owners.setdefault(name, []), target)
        _add(node.types.setdefault(name, []), "None" if value is None else type(value).__name__)
        node.values.setdefault(name, Counter())[_shown(value)] += 1
        if has_keys(value):
            _visit(value, f"{key}.{name}", config, nodes)


def _add(known: list[Any], new: Any) -> None:
    if new not in known:
        known.append(new)


def children(tree: Any) -> Iterator[tuple[str, Any]]:
    """What stands directly below a node: the keys of a mapping, the places of a list."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return ((str(name), value) for name, value in items if name != "_target_")


def has_keys(value: Any) -> bool:
    """Whether other keys stand below a value: it is a mapping, or a list of mappings."""
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, dict) for item in value)
    )


def _shown(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, dict):
        target = value.get("_target_")
        return f"a `{named(target)}`" if target is not None else "a mapping"
    if has_keys(value):
        return "a list"
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    if isinstance(value, list):
        return "`[" + ", ".join(_shown(item).strip("`") for item in value) + "]`"
    return f"`{named(value)}`" if callable(value) else f"`{value!r}`"


def named(target: Any) -> str:
    """A class or function, by its name."""
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


@cache
def described(target: Any) -> dict[str, str]:
    """What a target's docstrings say of its arguments, by name; a class's own and its bases'."""
    if target is None:
        return {}
    kinds = target.__mro__ if inspect.isclass(target) else (target,)
    texts = [kind.__doc__ for kind in kinds if kind is not object]
    texts += [vars(kind)["__init__"].__doc__ for kind in kinds[:-1] if "__init__" in vars(kind)]
    found: dict[str, str] = {}
    for text in filter(None, texts):
        # A section that nothing stands above isn't read as one.
        docstring = griffe.Docstring(plain(f".\n\n{inspect.cleandoc(text)}"))
        for section in docstring.parse("google", warnings=False):
            if section.kind.value in ("parameters", "other parameters", "attributes"):
                for argument in section.value:
                    found.setdefault(argument.name, " ".join(argument.description.split()))
    return found


def summary(target: Any) -> str:
    """The first sentence of a target's docstring; "" if it has none."""
    text = plain(inspect.cleandoc(target.__doc__ or ""))
    return " ".join(text.split("\n\n")[0].split())


def _annotation(parameter: inspect.Parameter) -> str:
    """As it is written, be it that the module postpones annotations."""
    annotation = parameter.annotation
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


@cache
def types(target: Any) -> dict[str, str]:
    """The types of a target's arguments, as its signature has them, without their modules."""
    if target is None:
        return {}
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # of C
        return {}
    return {
        parameter.name: re.sub(r"\b(?:\w+\.)+", "", _annotation(parameter))
        for parameter in parameters
        if parameter.annotation is not parameter.empty
    }


def meaning(node: Node, name: str, nodes: Mapping[str, Node]) -> str:
    """What a key does: as docstrings have it, or else by what it is linked to or a part of."""
    owners = [owner for owner in node.owners[name] if owner is not None]
    texts = [described(owner).get(name, "") for owner in [*owners, *PLAIN.get(node.key, ())]]
    below = nodes.get(f"{node.key}.{name}")
    if not any(texts) and below is not None:
        texts = [summary(target) for target in below.targets if target is not None]
    links = [text[3:-2] for text in node.values[name] if re.fullmatch(r"`\$\{[\w.]+\}`", text)]
    if not any(texts) and links:
        texts = [f"follows `{links[0]}`"]
    elif not any(texts) and owners:
        texts = [f"see `{owner.__module__}.{named(owner)}`" for owner in owners]
    elif not any(texts):
        texts = [f"see `{node.key}`" if node.key not in PLAIN else ""]
    return "; ".join(dict.fromkeys(text.removesuffix(".") for text in texts if text))


def kind(node: Node, name: str) -> str:
    """The type of a key: of its targets' signatures, or else of the values that it has."""
    found = [types(owner)[name] for owner in node.owners[name] if name in types(owner)]
    if not found:
        found = [" | ".join(sorted(node.types[name], key=lambda kind: kind == "None"))]
    return ", ".join(f"`{text}`" for text in dict.fromkeys(found))


def pages(nodes: Mapping[str, Node], total: int) -> dict[str, str]:
    """The text of each page, by its place in the site.

    Args:
        nodes: of all configs, see `collect`.
        total: how many configs there are.
    """
    found = {}
    for place, names in NODES.items():
        lines = [f"# Keys of {', '.join(f'`{name}`' for name in names)}", ""]
        lines += [INTRODUCTION.format(total=total), ""]
        for key, node in nodes.items():
            if key.partition(".")[0] in names:
                lines += section(node, nodes, total)
        found[place] = "\n".join(lines)
    return found


def section(node: Node, nodes: Mapping[str, Node], total: int) -> list[str]:
    """The part of a page about one node."""
    lines = [f"## `{node.key}`", ""]
    made = [target for target in node.targets if target is not None]
    lines += [*(f"- `{named(target)}`: {summary(target)}" for target in made), ""] if made else []
    if len(node.configs) < total:
        few = ", ".join(f"`{name}`" for name in node.configs[:2])
        lines += [f"In {len(node.configs)} of {total} configs, such as {few}.", ""]
    if node.values:
        lines += ["| key | default | type | what it does |", "|---|---|---|---|"]
    for name, values in node.values.items():
        key = f"{node.key}.{name}"
        default = defaults(values)
        if key in nodes:
            default = f"[{default}](#{key.replace('.', '')})"
        cells = (f"`{key}`", default, kind(node, name), meaning(node, name, nodes))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def defaults(values: Counter[str]) -> str:
    """The values of a key, the most frequent first; of equal ones in the order of the configs."""
    listed = [text for text, _ in values.most_common(MOST)]
    more = f", and {len(values) - MOST} more" if len(values) > MOST else ""
    return "; ".join(listed) + more
