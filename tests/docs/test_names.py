"""Names of Python that the text speaks of."""

import pkgutil
import re
from pathlib import Path

import pytest

import ms_detr.modeling
import ms_detr.supervision
import ms_detr.variants
from ms_detr import recipes
from ms_detr.variants import detr, iou_aware

from .pages import DOCS, PAGES, inline, name_of


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_dotted_names_exist(page: Path):
    for code in inline(page):
        if found := re.match(r"ms_detr(?:\.\w+)+(?=\(|$)", code):
            pkgutil.resolve_name(found[0])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_classes_exist(page: Path):
    """Of assigners, losses, query groups and the like, in backticks by themselves."""
    kinds = "Assigner|TopK|Branch|Initializer|Group|Loss|Head|Cost|Prior|Overlap"
    rooms = ms_detr.modeling, ms_detr.supervision, ms_detr.variants, detr, iou_aware
    known = {"DynamicTopK", *(name for room in rooms for name in vars(room))}
    names = {code for code in inline(page) if re.fullmatch(rf"[A-Z]\w*(?:{kinds})", code)}
    assert names <= known


def test_the_methods_are_recipes():
    text = (DOCS / "methods.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(names) >= 20
    assert names <= set(recipes.__all__)
