"""Pages of the site's API reference: one a package that says what is public in it."""

from __future__ import annotations

import ast
from pathlib import Path

# Modules without __all__ whose functions and classes are for users too.
MODULES = ("backbones", "benchmarks.model", "config", "errors", "meta_arch", "overrides")
NO_MEMBERS = """\
    options:
      members: false
      show_root_heading: false
      show_root_toc_entry: false
"""
BY_NAME = """\
    options:
      show_root_full_path: false
      show_root_heading: true
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
        members[f"ms_detr.{name}"] = defined_names(
            root.joinpath("ms_detr", *name.split(".")).with_suffix(".py")
        )
    return {place_of(module): page(root, module, names) for module, names in members.items()}


def place_of(module: str) -> str:
    """The site's page of a module."""
    return f"reference/{module.removeprefix('ms_detr.')}.md"


def page(root: Path, module: str, names: list[str]) -> str:
    """One page, for mkdocstrings to fill."""
    parts = [f"# `{module}`\n\n::: {module}\n{NO_MEMBERS}"]
    parts += [f"::: {path_of(root, module, name)}\n{BY_NAME}" for name in names]
    return "\n".join(parts)


def path_of(root: Path, module: str, name: str) -> str:
    """Where mkdocstrings finds a public name of a module.

    Of a module and a function with one name, as `ms_detr.recipes.dino`, it would take the module.
    """
    beside = root.joinpath(*module.split("."), f"{name}.py")
    return f"{module}.{name}.{name}" if beside.is_file() else f"{module}.{name}"
