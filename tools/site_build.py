"""Build the documentation's site from docs/, the recipes and the docstrings, into build/site/html.

python tools/site_build.py

A link or an anchor that leads nowhere is an error. The pages need nothing from another host, and
no server: they can be opened as files, search included.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import site_keys
import site_reference
from site_pages import Pages

from ms_detr.config import config_folder

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "mkdocs.yml"
PAGES = ROOT / "build" / "site" / "pages"
HTML = ROOT / "build" / "site" / "html"
ASSETS = ("site_file_search.js", "site.css")
# Lines of a build that are a fault, though zensical's --strict lets them pass.
FAULTS = ("griffe:", "autorefs:", "mkdocstrings:")


def write_pages(folder: Path) -> None:
    """Write everything that the site is made of into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = Pages(ROOT, folder)
    pages.write_all()
    for name in ASSETS:
        shutil.copy(ROOT / "tools" / name, folder / name)
    configs = site_keys.read_configs(config_folder())
    keys = site_keys.pages(site_keys.collect(configs), len(configs))
    for place, text in (site_reference.pages(ROOT) | keys).items():
        pages.write(place, text)


def run(config: Path) -> int:
    """Build the site of a mkdocs.yml; 1 if something in it leads nowhere or can't be read."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    result = subprocess.run(
        [*command, "--config-file", config], capture_output=True, text=True, check=False, cwd=ROOT
    )
    lines = (result.stdout + result.stderr).splitlines()
    print("\n".join(lines))
    return int(result.returncode != 0 or any(line.startswith(FAULTS) for line in lines))


def add_file_search(html: Path) -> None:
    """Write the search's index as the script that a page opened from a file looks for."""
    index = (html / "search.json").read_text()
    (html / "search.js").write_text(f"var __index = {index}")


def main() -> int:
    """Write the pages and build them."""
    write_pages(PAGES)
    status = run(CONFIG)
    if status == 0:
        add_file_search(HTML)
        print(f"Open {HTML / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
