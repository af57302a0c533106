"""The site built, and looked at in a real Chromium: from files, with nothing fetched."""

import json
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import site_build
import site_reference
from selenium.webdriver.support.wait import WebDriverWait

from tests.report.chromium import NEEDED, started

from .pages import ROOT
from .test_site import NAVIGATION

pytest.importorskip("zensical", reason="zensical is missing: make setup-dev")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def html() -> Path:
    """The folder of the whole site."""
    assert site_build.main() == 0
    return site_build.HTML


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("# A\n[b](lost.md)\n", "page does not exist"),
        ("# A\n[b](#lost)\n", "anchor does not exist"),
        ("# A\n::: ms_detr.lost\n", ""),
    ],
)
def test_what_leads_nowhere_is_an_error(tmp_path, capsys, page, said):
    (tmp_path / "build/site/pages").mkdir(parents=True)
    (tmp_path / "build/site/pages/index.md").write_text(page)
    text = site_build.CONFIG.read_text().partition("\nnav:")[0].replace('["."]', f'["{ROOT}"]')
    text = text.replace("tools/site_docstrings", f"{ROOT}/tools/site_docstrings")
    (tmp_path / "mkdocs.yml").write_text(text)
    assert site_build.run(tmp_path / "mkdocs.yml") == 1
    assert said in capsys.readouterr().out


def test_every_page_is_there(html):
    for page in NAVIGATION:
        text = (html / page).with_suffix(".html").read_text()
        assert "<h1" in text, page
    for module, names in site_reference.public_packages(ROOT).items():
        text = (html / site_reference.place_of(module)).with_suffix(".html").read_text()
        ids = set(re.findall(r'<h2 id="([\w.]+)" class="doc', text))
        assert {path.rpartition(".")[2] for path in ids} == set(names), module
    assert "<math" in (html / "formulas.html").read_text()
    assert 'class="linenos' in (html / "source/ms_detr/recipes/dino.py.html").read_text()


def test_links_of_the_html_lead_somewhere(html):
    """What was rendered, generated pages included; zensical looks at the Markdown."""
    ids: dict[Path, set[str]] = {}
    for file in html.rglob("*.html"):
        ids[file.resolve()] = set(re.findall(r'\b(?:id|name)="([^"]+)"', file.read_text()))
    lost = []
    for file in ids:
        if file.name == "404.html":
            continue
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', file.read_text()):
            if link.startswith(("http:", "https:", "data:", "mailto:", "javascript:")):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            if not target.exists() or (anchor and anchor not in ids.get(target, {anchor})):
                lost.append((file.relative_to(html.resolve()).as_posix(), link))
    assert lost == []


def test_two_builds_are_the_same(html, tmp_path):
    site_build.write_pages(tmp_path / "again")
    files = [path for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        assert (
            path.read_bytes()
            == (site_build.PAGES / path.relative_to(tmp_path / "again")).read_bytes()
        )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = started(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=["file", "http"])
def address(request, html) -> str:
    """Where the site is: in a folder, or at a server of its own."""
    if request.param == "file":
        yield html.resolve().as_uri()
        return
    handler = partial(SimpleHTTPRequestHandler, directory=html)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(browser, address: str, page: str):
    """The browser with a page, and empty logs."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(f"{address}/{page}")
    return browser


def complaints(browser, address: str) -> list:
    """What went wrong, and what was fetched from elsewhere."""
    found = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if "request" in m["params"]]
    assert sent
    return found + [url for url in sent if not url.startswith((address, "data:", "about:"))]


@NEEDED
@pytest.mark.parametrize("page", ["index.html", "formulas.html", "reference/recipes.html"])
def test_a_page_is_whole_and_fetches_nothing(browser, address, page):
    shown = opened(browser, address, page)
    assert complaints(shown, address) == []
    sizes = shown.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert all(width > 100 for width in sizes)
    assert shown.find_element("css selector", "h1").text


@NEEDED
def test_the_navigation_leads_on(browser, address):
    shown = opened(browser, address, "index.html")
    links = shown.execute_script(
        "return [...document.querySelectorAll('.md-nav--primary a[href]')].map(a => a.href)"
    )
    places = {link.partition("#")[0].removeprefix(f"{address}/") for link in links}
    assert {page.replace(".md", ".html") for page in NAVIGATION} <= places
    shown.execute_script(
        "document.querySelector('.md-nav--primary a[href$=\"formulas.html\"]').click()"
    )
    WebDriverWait(shown, 20).until(lambda driver: driver.title.startswith("Formulas"))


@NEEDED
def test_a_formula_is_drawn(browser, address):
    shown = opened(browser, address, "formulas.html")
    sizes = shown.execute_script(
        """return [...document.querySelectorAll('mfrac')].map(e => {
        const [a, b] = [...e.children].map(c => c.getBoundingClientRect());
        return [a.width, a.height, b.top - a.bottom];})"""
    )
    assert len(sizes) >= 2
    for width, height, gap in sizes:  # one above the other
        assert width > 20 and height > 8 and -2 <= gap < 12
    assert "$" not in shown.find_element("css selector", "article").text


@NEEDED
def test_the_search_finds(browser, address):
    shown = opened(browser, address, "index.html")
    wait = WebDriverWait(shown, 30)
    shown.find_element("css selector", "body").send_keys("/")
    entry = wait.until(
        lambda driver: next(
            (e for e in deep(driver, "input") if e.is_displayed() and e.size["width"] > 50), None
        )
    )
    entry.send_keys("hungarian")
    found = wait.until(
        lambda driver: [
            link
            for link in deep(driver, "a[href]")
            if "hungarian" in link.text.lower() and "md-nav" not in link.get_attribute("class")
        ]
    )
    assert found
    assert complaints(shown, address) == []


def deep(driver, selector: str) -> list:
    """Elements, those inside of shadow roots included."""
    script = """const found = [];
    const walk = (root) => {
        found.push(...root.querySelectorAll(arguments[0]));
        root.querySelectorAll('*').forEach(e => e.shadowRoot && walk(e.shadowRoot));
    };
    walk(document);
    return found;"""
    return driver.execute_script(script, selector)
