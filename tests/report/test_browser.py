"""A report in a real Chromium: what is rendered, and not what the page says of itself."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from .chromium import NEEDED, boxes, pixels, show

pytestmark = NEEDED
WIDTHS = (1280, 400)


@pytest.fixture(scope="module", params=WIDTHS)
def shown(request: pytest.FixtureRequest, browser, run_folder: Path):
    """The browser with the whole report in a window of some width."""
    return show(browser, run_folder / "report.html", request.param)


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
