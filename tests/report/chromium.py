"""A real Chromium for the tests of pages: what is rendered, and not what a page says of itself."""

import base64
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = (os.environ.get("MS_DETR_BROWSER"), "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if name and (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
NEEDED = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium with chromedriver here: make browser"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def started(profile: Path):
    """A browser, to be quit."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is missing: make setup-dev"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(DRIVER))


def show(browser, page: Path, width: int):
    """Open a page in a window of some width, and nothing of another page is in the logs."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    for kind in ("browser", "performance"):  # of the browser's own first page
        browser.get_log(kind)
    browser.get(page.resolve().as_uri())
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
