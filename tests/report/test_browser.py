"""A report in a real Chromium: what is rendered, and not what the page says of itself."""

import base64
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: make setup-dev")

NAMES = (os.environ.get("MS_DETR_BROWSER"), "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if name and (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium with chromedriver here: make browser"
)
WIDTHS = (1280, 400)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=WIDTHS)
def shown(request: pytest.FixtureRequest, browser, run_folder: Path):
    """The browser with the whole report in a window of some width."""
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    for kind in ("browser", "performance"):  # of the browser's own first page
        browser.get_log(kind)
    browser.get((run_folder / "report.html").resolve().as_uri())
    return browser


def boxes(browser, selector: str) -> list[dict[str, float]]:
    """Where elements lie, in pixels of the page."""
    script = """return [...document.querySelectorAll(arguments[0])].map(e => {
        const r = e.getBoundingClientRect();
        return {x: r.x, y: r.y + scrollY, width: r.width, height: r.height};})"""
    return browser.execute_script(script, selector)


def pixels(browser, box: dict[str, float]) -> np.ndarray:
    """A part of the page as it is rendered, (H, W, 3) uint8."""
    clip = {**box, "scale": 1}
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))


def test_nothing_complains_and_nothing_is_fetched(shown):
    assert [entry for entry in shown.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if "request" in m["params"]]
    assert sent and all(url.startswith(("file:", "data:")) for url in sent)


def test_a_class_name_is_no_script(shown):
    assert shown.title == "a run & its <folder>: finished"
    names = shown.execute_script(
        "return [...document.querySelectorAll('#classes tbody th')].map(e => e.textContent)"
    )
    assert sorted(names) == ["<script>document.title='pwned'</script>", "bar"]


def test_images_are_decoded(shown):
    sizes = shown.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])"
    )
    assert len(sizes) == 8
    assert all(complete and natural > 300 and width > 200 for complete, natural, width in sizes)


def test_everything_has_a_place(shown):
    width = shown.execute_script("return document.documentElement.clientWidth")
    assert shown.execute_script("return document.documentElement.scrollWidth") <= width
    sections = boxes(shown, "section")
    assert len(sections) == 7
    assert all(box["width"] > 0.85 * min(width, 1200) and box["height"] > 40 for box in sections)
    for above, below in itertools.pairwise(sections):
        assert above["y"] + above["height"] <= below["y"]
    # What is wider, as tables may be, scrolls in a box of its own.
    for box in boxes(shown, "h1, h2, h3, p, dd, dt, figure, figcaption, summary, pre, .scroll"):
        assert box["x"] >= 0 and (box["x"] + box["width"] <= width or box["width"] == 0)


def test_texts_of_curves_can_be_read(shown):
    """They are at least 8 pixels high and lie inside their picture."""
    for number, picture in enumerate(boxes(shown, "figure svg")):
        texts = shown.execute_script(
            """return [...document.querySelectorAll('figure svg')[arguments[0]]
            .querySelectorAll('text')].map(e => {const r = e.getBoundingClientRect();
            return {x: r.x, y: r.y + scrollY, width: r.width, height: r.height,
                    text: e.textContent};})""",
            number,
        )
        assert len(texts) > 5
        for text in texts:
            assert min(text["width"], text["height"]) > 0, text
            assert max(text["width"], text["height"]) >= 5, text
            assert text["x"] >= picture["x"] - 1, text
            assert text["x"] + text["width"] <= picture["x"] + picture["width"] + 1, text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_and_letters_stand_out(shown, scheme):
    """On light and on dark paper; seen in the pixels."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    papers = []
    for box in (*boxes(shown, "figure svg"), *boxes(shown, "h1, #classes table")):
        part = pixels(shown, box).astype(float)
        paper = np.median(part.reshape(-1, 3), axis=0)
        papers.append(paper.mean())
        distance = np.abs(part - paper).max(-1)
        assert distance.max() > 120
        assert 0.003 < (distance > 60).mean() < 0.5
    assert min(papers) > 200 if scheme == "light" else max(papers) < 60
    inks = shown.execute_script(
        """return [...document.querySelectorAll('figure svg text')]
        .map(e => getComputedStyle(e).fill)"""
    )
    shades = [np.mean([int(part) for part in re.findall(r"\d+", ink)[:3]]) for ink in inks]
    assert len(shades) > 30 and all(abs(shade - papers[0]) > 150 for shade in shades)
    for box in boxes(shown, "figure svg"):  # a line has a colour, which ink and paper have not
        part = pixels(shown, box).astype(int)
        assert ((part.max(-1) - part.min(-1)) > 60).sum() > 20
