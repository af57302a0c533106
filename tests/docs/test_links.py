"""Links, the index, and what else a page names."""

import re
from pathlib import Path

import pytest

from .pages import DOCS, PAGES, ROOT, name_of, prose

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ALL = [*PAGES, ROOT / "CHANGELOG.md"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in (target, *target.parents), f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_a_name_leads_to_the_file_that_has_it(page):
    for name, path in re.findall(r"\[`(\w+)`\]\(([^)#\s]+\.py)\)", page.read_text()):
        file = page.parent / path
        defined = re.findall(r"^(?:def|class) (\w+)", file.read_text(), re.MULTILINE)
        assert name in (*defined, file.stem), f"{path} has no {name}"


def test_the_index_has_every_page():
    index = DOCS / "README.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in LINK.findall(prose(index))}
    assert set(DOCS.rglob("*.md")) - {index} <= linked


def test_every_picture_is_shown():
    shown = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in LINK.findall(prose(page))
        if link.endswith((".png", ".jpg"))
    }
    assert set((DOCS / "images").iterdir()) == shown


def test_the_readme_is_a_door():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert "No weights trained on COCO come with this repository yet" in text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page):
    """Paths in backticks that start at the repository's root or at a folder of configs."""
    places = (ROOT, ROOT / "configs")
    names = {"configs", "ms_detr", "tests", "tools", "docs", "ops"}
    names |= {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()}
    for path in re.findall(rf"`((?:{'|'.join(names)})/[\w./*]+)`", prose(page)):
        assert any([*place.glob(path), *place.glob(f"{path}.py")] for place in places), path
