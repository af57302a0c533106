"""The pages of the documentation, cut into what tests look at."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str | None:
        """The file that the block is, if its first line says so."""
        found = re.match(r"# ([\w/]+\.py)\n", self.text)
        return found and found[1]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    """A page by its path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(language: str, *pages: Path) -> list[Block]:
    """The blocks of a language, of all pages if none is named."""
    found = []
    for page in pages or PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            if match[1] == language:
                line = text[: match.start()].count("\n") + 1
                found.append(Block(name_of(page), line, language, match[2]))
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """What stands in backticks on one page, outside of blocks."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def commands(block: Block) -> list[list[str]]:
    """The commands of a bash block, as words; continued lines are joined, comments left out."""
    text = block.text.replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def without_checkout(folder: Path) -> str:
    """A PYTHONPATH on which a folder stands in for this checkout."""
    paths = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if Path(path) != ROOT]
    return os.pathsep.join([str(folder), *paths])
