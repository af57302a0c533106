"""Build the documentation's site from docs/, the recipes and the docstrings, into build/site/html.

python tools/site_build.py

A link or an anchor that leads nowhere is an error. The pages need nothing from another host.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import site_reference
from site_pages import Pages

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "mkdocs.yml"
PAGES = ROOT / "build" / "site" / "pages"
# Lines of a build that are a fault, though zensical's --strict lets them pass.
FAULTS = ("griffe:", "autorefs:", "mkdocstrings:")


def write_pages(folder: Path) -> None:
    """Write everything that the site is made of into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = Pages(ROOT, folder)
    pages.write_all()
    for place, text in site_reference.pages(ROOT).items():
        pages.write(place, text)


def build() -> int:
    """Build the site; 1 if something in it leads nowhere or can't be read."""
    write_pages(PAGES)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    result = subprocess.run(
        [*command, "--config-file", CONFIG], capture_output=True, text=True, check=False, cwd=ROOT
    )
    lines = (result.stdout + result.stderr).splitlines()
    print("\n".join(lines))
    return int(result.returncode != 0 or any(line.startswith(FAULTS) for line in lines))


if __name__ == "__main__":
    sys.exit(build())
