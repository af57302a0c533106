"""The page of a dataset in a real Chromium, and what it says against what was found."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ms_detr.data.check import check_dataset
from ms_detr.report import write_sheet
from tests.data.check_support import FAULTS, LIMITS, Clean

from .chromium import NEEDED, boxes, pixels, show
from .conftest import SCRIPT

PLANTED = {"missing", "huge", "no width", "outside", "leaving", "bow tie", "copy", "unused"}


@pytest.fixture(scope="module")
def sheet(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("sheet")
    data = Clean(folder / "a <dataset> & more")
    for fault in FAULTS:
        if fault.name in PLANTED:
            fault.plant(data)
    for content in data.content.values():
        content["categories"][0]["name"] = SCRIPT
    checked = check_dataset(data.write(), limits=LIMITS)
    return checked, write_sheet(checked, folder / "sheet.html")


def test_it_needs_nothing_else(sheet):
    text = sheet[1].read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)
    assert "<script" not in text and "http://" not in text.replace("http://www.w3.org", "")


def test_histograms_are_told_in_words(sheet):
    checked, page = sheet
    text = page.read_text()
    for histogram in checked.statistics.histograms:
        total = sum(int(counts.sum()) for counts in histogram.counts.values())
        assert f"{histogram.title}: {total:,}, most of them" in text


@pytest.fixture(scope="module", params=(1280, 400))
def shown(request, browser, sheet):
    return show(browser, Path(sheet[1]), request.param)


@NEEDED
class TestInBrowser:
    def test_nothing_complains_and_nothing_is_fetched(self, shown):
        assert [x for x in shown.get_log("browser") if x["level"] == "SEVERE"] == []
        messages = [json.loads(x["message"])["message"] for x in shown.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if "request" in m["params"]]
        assert sent and all(url.startswith(("file:", "data:")) for url in sent)

    def test_the_table_is_what_was_found(self, shown, sheet):
        rows = shown.execute_script(
            """return [...document.querySelectorAll('#findings tbody tr')]
            .map(r => [...r.cells].map(c => c.textContent))"""
        )
        groups = sheet[0].groups
        assert len(rows) == len(PLANTED)
        assert rows == [
            [g.kind.code, str(g.count), "error" if g.kind.is_error else "warning", g.what]
            for g in groups
        ]
        names = shown.execute_script(
            "return [...document.querySelectorAll('#classes tbody th')].map(e => e.textContent)"
        )
        assert sorted(names) == ["<script>document.title='pwned'</script>", "bird", "dog"]
        assert shown.title == "a <dataset> & more: 8 kinds of findings"

    def test_pictures_are_decoded_and_faults_are_framed(self, shown):
        sizes = shown.execute_script(
            "return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])"
        )
        # Of all kinds but missing and huge images, and the class; and ordinary ones.
        assert len(sizes) == 5 + 6
        assert all(done and natural > 300 and width > 150 for done, natural, width in sizes)
        red = []
        for box in boxes(shown, "#findings figure img"):
            part = pixels(shown, box).astype(int)
            red.append(int(((part[..., 0] > 225) & (part[..., 1:] < 90).all(-1)).sum()))
        assert sum(count > 20 for count in red) >= 4  # the copy has nothing to be framed

    def test_everything_has_a_place(self, shown):
        width = shown.execute_script("return document.documentElement.clientWidth")
        assert shown.execute_script("return document.documentElement.scrollWidth") <= width
        sections = boxes(shown, "section")
        assert len(sections) == 6
        for above, below in itertools.pairwise(sections):
            assert above["y"] + above["height"] <= below["y"]
        for box in boxes(shown, "h1, h2, h3, p, dd, dt, figure, figcaption, summary, .scroll"):
            assert box["x"] >= 0 and (box["x"] + box["width"] <= width or box["width"] == 0)

    def test_histograms_have_bars(self, shown):
        pictures = boxes(shown, "figure svg")
        assert len(pictures) == 5
        for box in pictures:
            part = pixels(shown, box).astype(int)
            assert ((part.max(-1) - part.min(-1)) > 60).mean() > 0.01
            paper = np.median(part.reshape(-1, 3), axis=0)
            assert 0.005 < (np.abs(part - paper).max(-1) > 60).mean() < 0.8
