"""Pages of the site's API reference: one a package that says what is public in it."""

from __future__ import annotations

import ast
from pathlib import Path

# Modules without __all__ whose functions and classes are for users too.
MODULES = ("backbones", "config", "errors", "meta_arch", "overrides")
OPTIONS = """\
    options:
      members: [{members}]
      show_root_heading: false
      show_root_toc_entry: false
"""


def public_packages(root: Path) -> dict[str, list[str]]:
    """The public names of each package of ms_detr that has ``__all__``, by its dotted name."""
    found = {}
    for file in sorted((root / "ms_detr").rglob("__init__.py")):
        names = public_names(file)
        if names:
            found[".".join(file.relative_to(root).parent.parts)] = names
    return found


def public_names(file: Path) -> list[str]:
    """What a module lists in ``__all__``; empty if it has none."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def defined_names(file: Path) -> list[str]:
    """The functions and classes of a module that don't start with an underscore."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, kinds)]
    return [name for name in names if not name.startswith("_")]


def pages(root: Path) -> dict[str, str]:
    """The text of each page of the reference, by its place in the site."""
    members = public_packages(root)
    for name in MODULES:
        members[f"ms_detr.{name}"] = defined_names(root / "ms_detr" / f"{name}.py")
    return {place_of(module): page(module, names) for module, names in members.items()}


def place_of(module: str) -> str:
    """The site's page of a module."""
    return f"reference/{module.removeprefix('ms_detr.')}.md"


def page(module: str, names: list[str]) -> str:
    """One page, for mkdocstrings to fill."""
    return f"# `{module}`\n\n::: {module}\n{OPTIONS.format(members=', '.join(names))}"
