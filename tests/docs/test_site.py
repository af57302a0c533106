"""The site: what it is made of. `test_site_build.py` builds it and looks at it."""

import pkgutil
import re

import griffe
import pytest
import site_docstrings
import site_keys
import site_pages
import site_reference
import yaml

from .pages import PAGES, ROOT


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose slug function is a tag of Python's."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


def leaves(nav: list) -> list[str]:
    """The pages of a navigation, in order."""
    found = []
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += leaves(value) if isinstance(value, list) else [value]
    return found


NAVIGATION = leaves(CONFIG["nav"])


def test_the_navigation_has_every_page_once():
    files = [path.relative_to(ROOT).as_posix() for path in site_pages.markdown_files(ROOT)]
    assert {"README.md", "CHANGELOG.md", "docs/benchmarks/family_cpu.md"} <= set(files)
    generated = {*site_reference.pages(ROOT), *site_keys.NODES}
    assert len(generated) >= 20
    written = {site_pages.page_of(name) for name in files} | generated
    assert written - set(NAVIGATION) == set(), "not in the navigation of mkdocs.yml"
    assert set(NAVIGATION) - written == set(), "in the navigation, but nobody writes it"
    assert len(NAVIGATION) == len(set(NAVIGATION))


def test_pages_are_those_of_the_other_tests():
    assert set(site_pages.markdown_files(ROOT)) == {*PAGES, ROOT / "CHANGELOG.md"}


def test_nothing_comes_from_another_host():
    assert CONFIG["theme"]["font"] is False
    assert CONFIG["extra_javascript"] == ["site_file_search.js"]


@pytest.fixture
def repository(tmp_path):
    """A small one, with a page that links to all there may be."""
    texts = {
        "README.md": "# Top\n[a](docs/a.md#two)\n",
        "CONTRIBUTING.md": "# Help\n",
        "CHANGELOG.md": "# News\n",
        "docs/README.md": "# All\n",
        "docs/a.md": "# One\n## Two\n",
        "docs/deep/b.md": "# B\n"
        "![x](../images/x.png) [top](../../README.md#top) [`code`](../a.md)\n"
        "[out](https://example.org/a.md) [here](#b) [file](../../pkg/f.py) [folder](../../pkg)\n"
        "`[kept](../a.md)`\n\n```python\n[kept](../a.md)\n```\n",
        "pkg/f.py": "x = '```'\n",
        "pkg/g.py": "y = 2\n",
    }
    for name, text in texts.items():
        (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / name).write_text(text)
    (tmp_path / "repository/docs/images").mkdir()
    (tmp_path / "repository/docs/images/x.png").touch()
    return tmp_path / "repository"


def test_links_lead_to_pages(repository, tmp_path):
    (tmp_path / "site").mkdir()
    site_pages.Pages(repository, tmp_path / "site").write_all()
    assert (tmp_path / "site/index.md").read_text() == "# Top\n[a](a.md#two)\n"
    first, second, kept, *block = (tmp_path / "site/deep/b.md").read_text().splitlines()[1:]
    assert first == "![x](../images/x.png) [top](../index.md#top) [`code`](../a.md)"
    assert second == (
        "[out](https://example.org/a.md) [here](#b) [file](../source/pkg/f.py.md) "
        "[folder](../source/pkg/index.md)"
    )
    assert kept == "`[kept](../a.md)`" and block[2] == "[kept](../a.md)"
    assert (tmp_path / "site/images/x.png").is_file()
    listing = (tmp_path / "site/source/pkg/index.md").read_text()
    assert listing == "# `pkg`\n\n- [`f.py`](f.py.md)\n- [`g.py`](g.py.md)\n"
    assert "\nx = '```'\n" in (tmp_path / "site/source/pkg/f.py.md").read_text()


def test_a_link_to_nowhere_is_an_error(repository, tmp_path):
    (repository / "docs/a.md").write_text("[lost](../pkg/lost.py)")
    with pytest.raises(FileNotFoundError, match=r"docs/a.md links to pkg/lost.py"):
        (tmp_path / "site").mkdir()
        site_pages.Pages(repository, tmp_path / "site").write_all()


def test_formulas_become_mathml(tmp_path):
    pages = site_pages.Pages(ROOT, tmp_path)
    text = "so $x^2$ is\n\n```math\n\\frac{a}{b}\n```\n\n`$x$` costs 5$ or 6$\n"
    text = pages.rewrite(text, "docs/a.md")
    inline = text.splitlines()[0]
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in inline and inline.startswith("so <span><math")
    assert "`$x$` costs 5$ or 6$" in text
    assert re.search(r'^<math [^>]*display="block">.*<mfrac>.*</math>$', text, re.M)


def test_arguments_named_together_have_an_entry_each():
    text = (
        "Do it.\n\nArgs:\n    width, height: in pixels,\n        {as} stored; see :func:`f`.\n"
        "    name: of it.\n\nReturns:\n    a, b: two.\n"
    )
    sections = griffe.Docstring(site_docstrings.plain(text)).parse("google", warnings=False)
    (arguments,) = [s.value for s in sections if s.kind is griffe.DocstringSectionKind.parameters]
    found = {argument.name: argument.description for argument in arguments}
    together = "in pixels,\n{as} stored; see `f`."
    assert found == {"width": together, "height": together, "name": "of it."}
    assert "    a, b: two." in site_docstrings.plain(text)


def test_the_reference_has_every_public_name():
    import ms_detr.engine
    import ms_detr.recipes

    pages = site_reference.pages(ROOT)
    for module in (ms_detr, ms_detr.engine, ms_detr.recipes):
        text = pages[site_reference.place_of(module.__name__)]
        paths = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
        assert paths[0] == module.__name__
        assert [path.rpartition(".")[2] for path in paths[1:]] == list(module.__all__)
        found = [pkgutil.resolve_name(path) for path in paths[1:]]
        assert found == [getattr(module, name) for name in module.__all__]
    assert "::: ms_detr.meta_arch.GeneralizedDETR\n" in pages["reference/meta_arch.md"]


def test_nobody_commits_a_site():
    assert all(CONFIG[key].startswith("build/") for key in ("docs_dir", "site_dir"))
    assert "build/" in (ROOT / ".gitignore").read_text().splitlines()
